"""How well a classifier names labelled sounds: figures with intervals, calibration, mistakes."""
