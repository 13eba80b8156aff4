"""TLS with a certificate of an authority of its own: this client, and the C++ one in gma-chat."""

import asyncio
import subprocess

import grpc
import pytest
from conftest import BUILD, start_server, stop_server


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_authority(folder, name):
    """Its certificate and key, valid for a day."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    openssl(*command, "-days", "1", "-subj", f"/CN={name}", "-keyout", key, "-out", certificate)
    return certificate, key


def make_certificate(folder, authority, name):
    """Of a server called `name`, signed by `authority`."""
    certificate, key, request = (folder / f"server.{end}" for end in ("pem", "key", "csr"))
    command = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(*command, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    extension = folder / "extension"
    extension.write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\n")
    signed = ["-CA", authority[0], "-CAkey", authority[1], "-CAcreateserial", "-days", "1"]
    openssl("x509", "-req", "-in", request, *signed, "-extfile", extension, "-out", certificate)
    return certificate, key


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """Address of a server with TLS, and files of its authority and of another one."""
    folder = tmp_path_factory.mktemp("tls")
    authority = make_authority(folder, "authority")
    stranger = make_authority(folder, "stranger")
    certificate, key = make_certificate(folder, authority, "localhost")
    process, address = start_server(folder, "--tls_cert", certificate, "--tls_key", key)
    yield address, authority[0], stranger[0]
    stop_server(process)


def test_this_client(installed_python, tls):
    import gma_client

    address, authority, stranger = tls
    trusted = grpc.ssl_channel_credentials(authority.read_bytes())
    options = {"max_tokens": 5, "ignore_eos": True, "seed": 1}
    with gma_client.Client(address, credentials=trusted) as client:
        text = client.generate("Hello", **options).read()
        with client.session() as session:
            assert session.generate("Hello", **options).read() == text

    async def ask():
        async with gma_client.AsyncClient(address, credentials=trusted) as client:
            return await client.generate("Hello", **options).read()

    assert asyncio.run(ask()) == text
    distrusted = grpc.ssl_channel_credentials(stranger.read_bytes())
    for credentials in (distrusted, None):
        with (
            gma_client.Client(address, credentials=credentials, resume_for=0) as client,
            pytest.raises(gma_client.UnavailableError),
        ):
            client.generate("Hello", **options).read()


def test_the_client_of_gma_chat(tls):
    address, authority, stranger = tls
    ask = ["--prompt", "Hello", "--max_tokens", "5", "--connect_timeout", "2"]
    command = [BUILD / "bin" / "gma-chat", "--server", address, *ask]

    def run(*flags):
        return subprocess.run([*command, *flags], capture_output=True, timeout=60)

    done = run("--tls", "--tls_ca_file", authority)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert run("--tls", "--tls_ca_file", stranger).returncode == 1
    assert run().returncode == 1
