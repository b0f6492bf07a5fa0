"""Names of species as people write them: what names one, no bird at all, or an unidentified bird."""
