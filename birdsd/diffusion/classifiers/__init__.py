"""Classifiers of birdsong: networks, losses, augmentation, and the folder of a trained one"""
