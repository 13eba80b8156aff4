// Contract: the header of the same name.
