"""drsn-jax serve."""

import argparse
import sys
from pathlib import Path

from drsn_jax.cli.options import declare_device, declare_dtype, declare_model, declare_tile
from drsn_jax.system.errors import InputError
from drsn_jax.weights.shipped import SHIPPED


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    declare_model(parser, default=SHIPPED[0])
    network = parser.add_argument_group("network")
    host = "address to listen on: 127.0.0.1 for this machine only (default), 0.0.0.0 for the whole network, without a password"
    network.add_argument("--host", default="127.0.0.1", help=host)
    network.add_argument("--port", type=int, default=8765, help="port to listen on, 0 for a free one (default 8765)")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-mb", type=float, default=32, metavar="MB", help="largest upload in megabytes (default 32)")
    limits.add_argument("--max-megapixels", type=float, default=50, metavar="MP", help="largest photograph in megapixels (default 50)")
    where = parser.add_argument_group("devices and tiles")
    declare_device(where)
    declare_dtype(where)
    declare_tile(where, default=768)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    try:
        from drsn_jax.serving.app import make_app
        from drsn_jax.serving.server import address_of, is_loopback, open_socket, run_server
    except ImportError as error:
        raise InputError(f"The web page needs starlette, uvicorn and python-multipart ({error}): pip install 'drsn-jax[serve]'.") from error
    from drsn_jax.ops.devices import find_device
    from drsn_jax.restoration.core.tiling import check_tile
    from drsn_jax.serving.job_queue import JobQueue
    from drsn_jax.serving.limits import Limits
    from drsn_jax.serving.photographs import make_choosing_fn
    from drsn_jax.system.programs import keep_programs
    from drsn_jax.weights.model import load_model

    limits = Limits(_scaled(arguments, "max_mb", most=10_000), _scaled(arguments, "max_megapixels", most=178))
    with open_socket(arguments.host, arguments.port) as listener, keep_programs():
        model = load_model(arguments.model, device=find_device(arguments.device), dtype=arguments.dtype)
        check_tile(stride=model.stride, tile=model.fit_tile(arguments.tile), overlap=arguments.overlap)
        make_fn = make_choosing_fn(model, tile=arguments.tile, overlap=arguments.overlap)
        local = is_loopback(listener)
        hosts = tuple(dict.fromkeys((arguments.host, "localhost", "127.0.0.1", "[::1]"))) if local else ("*",)
        if not local:
            sys.stderr.write("Everyone on the network can use the page. There is no password and no encryption.\n")
        greeting = (
            f"Restoring photographs at {address_of(listener)} with the model {arguments.model.name}; press Ctrl-C to stop.\n"
            "The first photograph of about a size takes longer, because the network is compiled for it and kept for later.\n"
        )

        def make(folder: Path, jobs: JobQueue):
            return make_app(make_fn, folder=folder, jobs=jobs, model=arguments.model.name, limits=limits, hosts=hosts)

        run_server(make, listener, greeting=greeting)
    return 0


def _scaled(arguments: argparse.Namespace, name: str, *, most: int) -> int:
    """Check a limit in mega-units. For pixels, `most` is the limit of Pillow."""
    value = getattr(arguments, name)
    if not 0 < value <= most:
        raise InputError(f"--{name.replace('_', '-')}={value:g} is not above 0 and at most {most}; omit it for the default.")
    return max(int(value * 1e6), 1)
