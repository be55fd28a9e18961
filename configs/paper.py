"""The paper's recipe (Jiang & Liu 2022) in the reading of SPEC section 1; each value has the section of its source.

    drsn-jax train --config=paper --workdir=runs/paper --config.train_dir=GOPRO_Large/train --config.eval_dir=VALIDATION

Expect the critic to saturate within a few steps, as users of the Keras reference report: its score is bounded and its slope is not.
The run reports it once. A step at 256x256 needs about 0.9 GB. The figures of section 5.2 are claims of the paper, not of this recipe.
"""

from ml_collections import ConfigDict

from drsn_jax.config import base_config


def get_config() -> ConfigDict:
    config = base_config()

    config.trunk = "quarter"  # 3.2.1: four convolutions, nine DRSNs, two upsampling stages
    config.widths = (64, 128, 256)  # 3.2.1 says 64, 256 and 512, but its blocks have 256 filters: our interpretation
    config.num_blocks = 9  # 3.2.1
    config.block_order = "pre"  # 3.2.2: BN and ReLU before the convolution
    config.shrinkage = True  # 3.2.2
    config.convs_per_block = 2  # 3.2.2, Figure 3
    config.norm = "batch"  # 3.2.1: BatchNorm, batch size of 1
    config.threshold_norm = "none"  # batch would make the threshold constant with a batch of 1, and is refused
    config.dropout = 0.5  # 3.2.1
    config.upsampling = "nearest"  # 3.2.1: upsampling and convolution, against chessboard artefacts
    config.strided_padding = "keras"  # 3.2.1: "same" padding, in Keras (5.1)
    config.output = "clip_residual"  # 3.2.1: a global connection; its bounds are not given
    config.unshuffle = 1
    config.kernel_init = "glorot_uniform"  # 5.1: Keras' defaults
    config.zero_head = False

    config.critic = "dense"  # 3.2.3: one confidence per 256x256 image; the head of the Keras reference
    config.critic_widths = (64, 64, 128, 256, 512)  # not given: those of the Keras reference
    config.critic_norm = "batch"  # 3.2.3: batch standardisation
    config.critic_output = "sigmoid"  # 3.2.3

    config.adversarial_weight = 1.0  # 4
    config.content_weight = 100.0  # 4 and 5.1: lambda
    config.pixel_weight = 0.0
    config.frequency_weight = 0.0
    config.content_layer = "conv3_3"  # 4.2: i and j are not given
    config.content_input = "raw"  # not given: both references feed [-1, 1]

    config.critic_steps = 5  # 5.1
    config.critic_batches = "same"  # not given: the Keras reference
    config.critic_update = "joint"
    config.fake_mode = "train"
    config.critic_norm_in_generator_step = "batch"
    config.lipschitz = "none"  # neither clipping nor a penalty is mentioned

    config.num_epochs = 300  # not given: DeblurGAN's
    config.batch_size = 1  # 5.1
    config.crop_size = 256  # 5.1
    config.stages = ()
    config.learning_rate = 1e-4  # 5.1
    config.critic_learning_rate = 1e-4
    config.schedule = "constant"  # 5.1; linear_decay is DeblurGAN's
    config.warmup_steps = 0
    config.beta1 = 0.9  # 5.1: the defaults of Keras' Adam
    config.critic_beta1 = 0.9
    config.beta2 = 0.999
    config.epsilon = 1e-7
    config.weight_decay = 0.0
    config.clip_norm = 0.0
    config.ema_decay = 0.0

    config.frame = "resize"  # 5.1: converted from 1280x720 to 256x256
    config.flip = True
    config.rotate = False
    config.noise_variance = (0.0, 0.0)  # noise is only added in testing (5.5)
    config.eval_protocol = "resize256"  # its training size; `drsn-jax evaluate` scores the full frame
    return config
