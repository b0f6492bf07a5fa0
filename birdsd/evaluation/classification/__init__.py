"""How well a classifier names labelled sounds: figures with intervals, its calibration, its worst mistakes."""
