"""Finding conformations when poses are not known: the template moves towards the images before anything is trained."""
