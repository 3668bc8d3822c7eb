"""From images to a skeleton map, a lesion probability and lesion candidates."""
