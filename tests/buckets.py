"""Local substitutes for buckets: an S3 and a Google storage that only tests reach, for s3fs, gcsfs, Orbax and TensorStore alike."""

import logging
import os
import socket
from collections.abc import Callable

NAME = "bucket"


def start_s3() -> Callable[[], None]:
    """Start moto's S3 in a thread and set the environment for s3fs; returns the function that stops it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    environment["AWS_DEFAULT_REGION"] = "us-east-1"
    os.environ.update(environment)
    import boto3

    boto3.client("s3").create_bucket(Bucket=NAME)
    return server.stop


def start_gs() -> Callable[[], None]:
    """Start gcp-storage-emulator in a thread and set the environment; returns the function that stops it."""
    from gcp_storage_emulator.handlers import objects
    from gcp_storage_emulator.server import create_server

    download = objects.download

    def with_generation(request, response, storage, *arguments, **options):
        """Add the generation to answers, without which TensorStore refuses them."""
        download(request, response, storage, *arguments, **options)
        if response.status < 300:
            response["x-goog-generation"] = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])["generation"]

    objects.download = with_generation
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=NAME)
    server.start()
    address = f"http://127.0.0.1:{port}"
    environment = {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x"}
    # gcsfs would ask another Google server for the kind of bucket, and wait for it.
    environment |= {"GOOGLE_CLOUD_PROJECT": "test", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
    os.environ.update(environment)
    return server.stop


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
