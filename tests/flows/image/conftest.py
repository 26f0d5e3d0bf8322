"""Fixtures of the contract suite."""

import pytest

from nfphasing_bluesky.flows.image import ImageEncoder, ImageEncoderSettings
from tests.flows.image.subjects import FLOWS, make_flow, unsettle


@pytest.fixture(params=FLOWS)
def image_flow(request):
    return make_flow(request.param)


@pytest.fixture
def encoder():
    return unsettle(ImageEncoder(2, ImageEncoderSettings(widths=(8, 8), extras=3)), scale=0.1)
