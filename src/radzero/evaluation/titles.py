"""The names of the public benchmarks, which the command line knows without importing them."""

BENCHMARK_TITLES = {
    "openi": "Open-I",
    "padchest": "PadChest",
    "padchest20": "PadChest20",
    "chestxray14": "NIH ChestX-ray14",
    "chexpert": "CheXpert",
    "chestxdet10": "ChestX-Det10",
    "mscxr": "MS-CXR",
    "siim": "SIIM-ACR Pneumothorax",
    "rsna": "RSNA Pneumonia",
    "phantom": "Phantoms",
    "anatomy": "Anatomy",
}
