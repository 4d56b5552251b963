from secateurs.calibration.needs import Need


def test_what_takes_images_and_what_takes_a_loss():
    data = {need for need in Need if need & Need.DATA}  # single ones: Python lists no others
    loss = {need for need in Need if need & Need.LOSS}
    assert data == {Need.ACTIVATIONS, Need.GRAMS, Need.GATES, Need.CURVATURE, Need.ABLATION}
    assert loss == {Need.GATES, Need.CURVATURE, Need.ABLATION}
    assert not Need.WEIGHTS & Need.DATA
    assert not Need.NOTHING
