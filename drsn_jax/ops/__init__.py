"""Array operations and what they cost: convolutions, rematerialisation, strips of rows, transforms, image metrics. Uses `system`."""
