"""Tests of the documentation and of the site that is built from it."""
