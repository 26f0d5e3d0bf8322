"""What cuts and frames at grazing incidence take: particles on surfaces, and films."""
