"""Images into batches: folders of pairs through tf.data, or photographs held and blurred on the device."""
