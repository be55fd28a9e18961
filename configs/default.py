"""The GAN recipe for an accelerator (also called `best`): an encoder-decoder of residual shrinkage blocks, trained with noise.

    drsn-jax train --config=default --workdir=runs/gopro --config.train_dir=GOPRO_Large/train --config.eval_dir=VALIDATION

Expect: 300,000 steps on an accelerator. No run has reached the end; docs/experiments/recipes.md shows the start of one.
small.py and base.py are the recipes of the shipped models.
Defaults are in this file only. It explains every key; `drsn-jax info --config=NAME` lists the values.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()

    # Generator (paper, section 3.2.1)
    config.trunk = "unet"  # quarter: the paper's nine blocks at quarter resolution; unet: the same blocks at three scales with skips
    config.widths = (64, 128, 256)  # channels at full, half and quarter resolution
    config.num_blocks = 2  # quarter: the total; unet: at each scale, on the way down and again on the way up
    config.middle_blocks = 0  # unet: additional blocks at the coarsest scale, where the field of view is largest
    config.block_order = "pre"  # norm and ReLU before each convolution (the paper's) or after it
    config.shrinkage = True  # False: DeblurGAN's residual blocks, without thresholds
    config.convs_per_block = 2
    config.norm = "none"  # batch | instance | layer | none, in the trunk
    config.threshold_norm = "none"  # none | layer | batch, between the dense layers that make the thresholds
    config.dropout = 0.0  # inside the blocks
    config.upsampling = "nearest"  # nearest + convolution, or transposed convolution (DeblurGAN's)
    config.strided_padding = "keras"  # stride-2 convolutions pad bottom and right (keras) or all sides (torch)
    config.output = "clip_residual"  # clip(input + tanh), or average: (input + tanh) / 2
    config.unshuffle = 1  # first fold squares of 1, 2 or 4 pixels a side into channels: faster, coarser
    config.kernel_init = "glorot_uniform"  # of both networks; he_normal | normal (0.02)
    config.zero_head = True  # the untrained generator returns its input (with output=clip_residual)
    config.remat = False  # recompute the blocks for the gradient instead of storing their inner values: less memory, more time
    config.dtype = "float32"  # of the computation (parameters are float32); bfloat16 for accelerators

    # Critic (paper, section 3.2.3)
    config.critic = "patch"  # dense: the Keras reference's head, one fixed crop size; patch: PatchGAN's, any size
    config.critic_widths = (64, 128, 256, 512)
    config.critic_norm = "none"  # batch norm and a gradient penalty are incompatible
    config.critic_output = "linear"  # sigmoid is the paper's; it saturates
    config.dense_features = 1024  # of the dense head

    # Losses (paper, section 4); a term of weight 0 is not computed
    config.adversarial_weight = 1e-3
    config.content_weight = 1e-7  # imagenet features are in the hundreds: at 1e-6 this gradient is three times that of the pixels
    config.pixel_weight = 1.0  # Charbonnier
    config.frequency_weight = 0.01  # L1 of the unnormalised rfft2, which grows with the crop: 0.01 at 256 is as strong as 0.05 at 64
    config.content_layer = "conv3_3"  # of VGG19, after its ReLU; conv3_3 is the deepest layer in the package
    config.content_input = "imagenet"  # imagenet: VGG19's training input; raw: [-1, 1] RGB, as in both references
    config.vgg19 = ""  # a file of VGG19 weights; empty: those in the package

    # Critic updates
    config.critic_steps = 5  # before each generator update; a step is one generator update
    config.critic_batches = "same"  # same: the generator's batch; fresh: one per critic update, so a step reads critic_steps + 1 batches
    config.critic_update = "joint"  # joint: one update on sharp and restored images; alternating: one on each (the Keras reference)
    config.fake_mode = "train"  # train or inference: the generator's mode when it restores the images for the critic
    config.critic_norm_in_generator_step = "batch"  # critic batch norm: batch statistics or moving ones
    config.lipschitz = "gradient_penalty"  # none | clip | gradient_penalty
    config.penalty_weight = 10.0
    config.clip_value = 0.01

    # Optimisation
    config.num_train_steps = 300_000
    config.num_epochs = 0  # more than 0: num_train_steps is this number of passes over the training pairs
    config.batch_size = 8  # total over all devices
    config.accumulation_steps = 1  # micro-batches per update, processed one after the other: a large batch in the memory of a small one
    config.crop_size = 256
    config.stages = ((0, 128, 32), (200_000, 256, 8))  # (from step, crop_size, batch_size), instead of the two keys above; () for none
    config.learning_rate = 3e-4
    config.critic_learning_rate = 1e-4
    config.schedule = "cosine"  # constant | cosine | linear_decay
    config.warmup_steps = 2_000
    config.optimizer = "adam"  # of the generator: adam | muon, which makes the updates of kernels orthogonal
    config.adam_form = "optax"  # where Adam adds epsilon: optax | keras; with muon only for the critic
    config.parameter_groups = "by_role"  # by_role: no weight decay for biases and scales, no Muon for stem and head; by_shape: older rule
    config.beta1 = 0.9
    config.critic_beta1 = 0.5
    config.beta2 = 0.999
    config.epsilon = 1e-7
    config.weight_decay = 1e-4  # AdamW; of the generator
    config.clip_norm = 1.0  # of the generator's gradient; 0: not clipped
    config.ema_decay = 0.999  # running mean of the generator, used for restoring; 0: off

    # Data
    config.data = "pairs"  # pairs: folders through tf.data; resident: pairs on the device; photos: a folder, blurred on the device; demo
    config.train_dir = ""  # a folder, or a set made by `drsn-jax prepare`: NAME[/CONFIG][:SPLIT] (gopro:train)
    config.eval_dir = ""  # validation pairs, never the test set. Without it photos and demo hold photographs out
    config.blur_folder = "blur"  # of GoPro: blur (linear averages) or blur_gamma
    config.frame = "crop"  # resize: the whole frame | half_crop: half size, then crop | crop. photos and resident always crop
    config.flip = True
    config.rotate = True  # by quarter turns
    config.crop_candidates = 1  # all but pairs: train on the most detailed of this number of random crops
    config.noise_variance = (0.0, 0.002)  # range of the variance of Gaussian noise on blurred images, image scale [0, 1]
    config.noise_share = 1.0  # share of images with noise
    config.cache = False  # pairs: keep the decoded frames in memory
    config.prefetch = 2  # pairs: number of prefetched batches
    config.blur_length = (0.0, 25.0)  # photos, demo: range of the length of the camera's path in pixels
    config.blur_skew = 1.0  # 1: all lengths equally often; more: short ones more often (2: half of all in the lowest quarter)
    config.blur_inertia = (0.9, 0.995)  # range of the steadiness of the camera; 1: a straight line
    config.blur_moment = "mean"  # place of the sharp image on the path: its mean, its middle, or half a frame later, as in GoPro
    config.blur_cross = 1.0  # ratio of vertical to horizontal speed; 0: horizontal pans only
    config.blur_variation = 0.5  # strength of camera roll in the corners
    config.blur_saturation = 0.5  # how far highlights may exceed white
    config.blur_object = 0.0  # share of photographs with an object that moves separately; 0: only the camera moves
    config.object_masks = ""  # the shapes of these objects: folders A,B,C of masks, black images with one bright object; empty: ellipses
    config.blur_softness = (0.0, 0.0)  # range of the lens softness of sharp and blurred images (deviation in pixels)
    config.jpeg_quality = (100.0, 100.0)  # photos, demo: range of the JPEG quality of blurred images; 100,100: not compressed
    config.text_share = 0.0  # photos, demo: share of a batch with rendered text and line drawings, blurred like photographs
    config.text_fonts = ""  # a folder of .ttf and .otf files for this text; empty: Pillow's own font
    config.frames_dir = ""  # photos: folders of numbered frames (A,B,C, or their parent) as additional data, averaged as in GoPro
    config.frames_share = 0.5  # of a batch, if frames_dir is set
    config.frames_averaged = (7, 13)  # range of the number of frames
    config.frames_odd = False  # only odd numbers of frames: the sharp one is in the middle of the exposure. GoPro also has even numbers
    config.frames_sharpness = 0.0  # least sharpness of a window's middle frame: a share of the clip's median, and of the sharpest neighbour
    config.hold_out_every = 10  # photos without eval_dir: every n-th photograph is for validation

    # The run
    config.init_from = ""  # start with the weights of a workdir, checkpoint or model, which may be smaller; new moments
    config.seed = 0
    config.log_every_steps = 100
    config.eval_every_steps = 5_000  # 0: only after the last step
    config.checkpoint_every_steps = 1_000  # 0: only at an evaluation
    config.eval_images = 0  # number of validation images, evenly spread; 0: all
    config.eval_copies = 1  # photos, demo: blurred versions of each held-out photograph
    config.eval_noise_variances = (0.0, 0.001)  # all validation images at each of these; the first one selects the best checkpoint
    config.eval_protocol = "full"  # full | half | resize256
    config.sample_images = 4  # panels drawn at each evaluation
    config.on_nonfinite = "stop"  # at infinite or NaN figures: stop | skip the step, as if its batch did not exist
    config.max_nonfinite_steps = 10  # skip: stop the run after this number of them in a row
    config.on_bad_image = "stop"  # at an unreadable image: stop | skip and use another one; more than a tenth stop the run
    config.tensorboard = True  # if clu can be imported

    return config
