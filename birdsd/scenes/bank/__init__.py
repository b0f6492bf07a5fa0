"""Single songs: made by a model or cut out of recordings, judged, and kept for any number of scenes."""
