"""The documents that one part of the pipeline hands to another, as typed, versioned structs; one file per document."""
