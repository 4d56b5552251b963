"""How much smaller images for a proof may be."""

from secateurs.channels.smaller_images import smaller_sides


def test_forty_percent_of_a_side_in_steps_of_32():
    assert smaller_sides((224, 224), []) == (96, 96)  # 89.6, up to the next multiple
    assert smaller_sides((512, 320), []) == (224, 128)


def test_small_images_are_left_whole():
    assert smaller_sides((64, 30), []) is None  # less than a step on one side
    assert smaller_sides((40, 40), []) is None  # 32 x 32 are most of it
    assert smaller_sides((32, 32), []) is None


def test_no_map_gets_too_small():
    assert smaller_sides((224, 224), [(7, 7)]) == (96, 96)  # three
    assert smaller_sides((224, 224), [(5, 5)]) is None
    assert smaller_sides((224, 224), [(1, 1)]) == (96, 96)
