"""From a source's files to an array in the store."""
