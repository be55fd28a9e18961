"""The runners of Apache Beam and their options. Runners that would download a program are refused."""

import logging
import re
from collections.abc import Sequence
from typing import Any

from drsn_jax.system.errors import InputError


def parse_options(texts: Sequence[str]) -> list[str]:
    """Parse options from texts such as '--project=p,--region=r'; commas inside a value are kept. Raises `InputError` for other texts."""
    options = [option.strip() for text in texts for option in re.split(r",(?=--)", text) if option.strip()]
    if wrong := [option for option in options if not option.startswith("--")]:
        raise InputError(f"--beam-options={wrong[0]} is not an option of Beam; write each as --name=value, separated by commas")
    return options


def open_beam(runner: str, options: Sequence[str]) -> tuple[Any, Any]:
    """Return Beam's options and the runner. Raises `InputError` for unknown ones, and for those that would download something."""
    needed = {"SparkRunner": "--spark_job_server_jar", "FlinkRunner": "--flink_job_server_jar", "PrismRunner": "--prism_location"}.get(
        runner
    )
    if needed and not any(option.startswith(f"{needed}=") for option in options):
        raise InputError(
            f"{runner} would download its job server; give a local one (--beam-options={needed}=FILE),"
            " or a running one (--beam-runner=PortableRunner --beam-options=--job_endpoint=HOST:8099)"
        )
    logging.disable(logging.WARNING)  # Beam warns about Google's packages, which are not needed
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
        from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
        from apache_beam.runners.runner import create_runner

        # DirectRunner uses FnApiRunner for a batch, but may first try to download Prism.
        return PipelineOptions(list(options)), FnApiRunner() if runner == "DirectRunner" else create_runner(runner)
    except ImportError as error:
        raise InputError(f"--beam-runner={runner} needs Apache Beam with that runner ({error}); pip install 'drsn-jax[beam]'") from error
    except (ValueError, AttributeError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"--beam-runner={runner} cannot be used: {message}; use DirectRunner on this machine") from error
    finally:
        logging.disable(logging.NOTSET)
