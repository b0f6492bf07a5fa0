"""Labelled sounds for other programs: short clips in folders, as BirdNET-Analyzer and datasets take them."""

BIRDNET, HUGGINGFACE = "birdnet", "huggingface"
# Format -> what it is.
FORMATS = {
    BIRDNET: "labelled recordings as folders of 3 s clips, for BirdNET-Analyzer's train",
    HUGGINGFACE: "labelled recordings as a Hugging Face datasets folder, with card and metadata.parquet",
}
