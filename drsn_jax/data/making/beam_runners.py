"""The runners of Apache Beam and their options. A runner that would download a program is refused."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from drsn_jax.system.errors import InputError


def parse_options(texts: Sequence[str]) -> list[str]:
    """The options in texts as '--project=p,--region=r'; a comma inside a value is left alone. Raises `InputError` for others."""
    options = [option.strip() for text in texts for option in re.split(r",(?=--)", text) if option.strip()]
    if wrong := [option for option in options if not option.startswith("--")]:
        raise InputError(f"--beam-options={wrong[0]} is not an option of Beam; write each as --name=value, separated by commas")
    return options


def open_beam(runner: str, options: Sequence[str]) -> tuple[Any, Any]:
    """Beam's options and the runner itself. Raises `InputError` for what Beam does not know, or would have to fetch from the network."""
    needed = {"SparkRunner": "--spark_job_server_jar", "FlinkRunner": "--flink_job_server_jar", "PrismRunner": "--prism_location"}.get(
        runner
    )
    if needed and not any(option.startswith(f"{needed}=") for option in options):
        raise InputError(
            f"{runner} would download its job server; give one that you have (--beam-options={needed}=FILE),"
            " or one that runs (--beam-runner=PortableRunner --beam-options=--job_endpoint=HOST:8099)"
        )
    logging.disable(logging.WARNING)  # Beam warns about Google's packages, which nobody has asked for
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
        from apache_beam.runners.runner import create_runner

        # FnApiRunner is what DirectRunner comes to for a batch; DirectRunner may first try to download Prism.
        return PipelineOptions(list(options)), FnApiRunner() if runner == "DirectRunner" else create_runner(runner)
    except ImportError as error:
        raise InputError(f"--beam-runner={runner} needs Apache Beam with that runner ({error}); pip install 'drsn-jax[beam]'") from error
    except (ValueError, AttributeError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"--beam-runner={runner} cannot be used: {message}; use DirectRunner on this machine") from error
    finally:
        logging.disable(logging.NOTSET)
