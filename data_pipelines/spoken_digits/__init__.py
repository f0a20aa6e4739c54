"""The spoken digits: a data set of moving handwritten digits that say their name, made here."""
