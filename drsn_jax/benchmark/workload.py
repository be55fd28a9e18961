"""The nominal multiply-adds of a row: those of its definition, the same for every subject and form."""

from collections.abc import Mapping
from typing import Any

from drsn_jax.config.build import make_critic, make_generator
from drsn_jax.models.vgg19 import VGG19
from drsn_jax.ops.costs import count_module_macs

Size = tuple[int, int]


def count_row_macs(row: str, *, config: Mapping[str, Any], size: Size) -> int | None:
    """Count the multiply-adds of one call of a row with the configuration's batch; `size` is height x width of an image. None: not counted.

    Let G, C and V be the counts of one image's forward pass (`costs.count_module_macs`): through the generator, the critic, and VGG19 up to
    the content layer. They do not depend on the form of an operation. By the usual convention every multiply-add of a forward pass counts
    twice more: for the gradient of a layer's input, and for that of its kernel. One image costs

    - inference: G;
    - the critic part: critic_steps updates on a sharp and a restored image each, 3 C an image;
    - the generator part: 3 G; 2 C, the frozen critic forward and back; V, VGG19 of the sharp image; 2 V, VGG19 of the restored image
      forward and back. A term of weight 0 costs nothing;
    - the training step: both parts, and the restorations that only the critic sees, G each: critic_steps with critic_batches=fresh, one
      with fake_mode=inference, else none.

    All subjects use the same count for their share of the peak, even a loop with one more prediction, such as Keras'. Norms, thresholds,
    Adam and reading images are not counted. A gradient penalty differentiates twice, for which there is no convention: None.
    """
    batch = config["batch_size"]
    if row in ("inference", "inference-720p"):
        return batch * count_module_macs(make_generator(config), size=size)
    if row == "input-pipeline" or (config["lipschitz"] == "gradient_penalty" and row != "generator-part"):
        return None
    adversarial = bool(config["adversarial_weight"])
    generator = count_module_macs(make_generator(config), size=size)
    critic = count_module_macs(make_critic(config), size=size) if adversarial else 0
    vgg19 = count_module_macs(VGG19(config["content_layer"], config["content_input"]), size=size) if config["content_weight"] else 0
    critic_part, generator_part = config["critic_steps"] * 2 * 3 * critic, 3 * generator + 2 * critic + 3 * vgg19
    if row == "critic-part":
        return batch * critic_part
    if row == "generator-part":
        return batch * generator_part
    restorations = config["critic_steps"] if config["critic_batches"] == "fresh" else int(config["fake_mode"] == "inference")
    return batch * (critic_part + generator_part + (restorations if adversarial else 0) * generator)
