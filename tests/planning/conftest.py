"""A tiny set and models of a few steps, which tests may read and must not change."""

from tests.support.threads import one_thread as one_thread
from tests.support.tiny import autoencoder_folder as autoencoder_folder
from tests.support.tiny import index as index
from tests.support.tiny import pipeline_folder as pipeline_folder
from tests.support.tiny import trained as trained
