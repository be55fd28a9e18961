"""Array operations and their costs: convolutions, rematerialisation, strips of rows, transforms, image metrics."""
