"""Which attributes a model brings."""

import pytest

from nfphasing_bluesky.core import ModelInfo, Parameter
from nfphasing_bluesky.modalities.imaging.images import transmission_info
from tango_device.attributes import model_fields


@pytest.mark.parametrize("neighbours", [0, 12])
def test_phase_and_absorption_are_an_image_each_and_an_object_has_its_own(neighbours):
    info = ModelInfo(
        "model",
        "modality",
        "1",
        "0" * 64,
        transmission_info((8, 8), 1e-8),
        (Parameter("mean_phase_rad", "rad", "mean phase"),),
        neighbours=neighbours,
    )
    fields = {field.name: field for field in model_fields(info)}
    units = {name: fields[name].unit for name in fields if name.endswith("_mean")}
    assert units == {"density_mean": "rad", "absorption_mean": "dimensionless"} | (
        {} if "predicted_mean" not in fields else {"predicted_mean": fields["predicted_mean"].unit}
    )
    for name in ("density_mean", "density_std", "absorption_mean", "absorption_std"):
        assert fields[name].image
        assert [axis.name for axis in fields[name].axes] == ["y", "x"]
    # only frames of a scan are stitched
    assert ("object_phase" in fields) == (neighbours > 0)
