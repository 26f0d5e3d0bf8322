"""How others reach a running service: registration in a Tango database, images on its wire, ophyd devices."""
