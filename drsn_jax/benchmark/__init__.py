"""The Keras 3 reference of DRSN-GAN and the measurements of ours against it."""
