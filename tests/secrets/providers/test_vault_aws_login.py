"""Login by AWS IAM: what is sent is a request that AWS would accept, and no key.

OpenBao has no such method built in: the answer is played, and botocore's own signer judges the
request."""

from __future__ import annotations

import base64
import json

import botocore.auth
import botocore.awsrequest
import botocore.credentials

from agent.secrets.providers.http import HttpClient
from agent.secrets.providers.vault.client import VaultClient
from agent.secrets.providers.vault.methods.aws import AwsLogin
from tests.faults.proxy import FaultServer, response
from tests.secrets.providers.conftest import keys, soon


def test_the_login_sends_a_signed_identity_request_and_no_key() -> None:
    auth = {"client_token": "s.t", "lease_duration": 60, "renewable": True}
    answer = response(json.dumps({"auth": auth}).encode())
    server = FaultServer(lambda connection: connection.sendall(answer))
    with server:
        http = HttpClient(server.url)
        method = AwsLogin("aws", "desk", "vault.internal", keys())
        token = method.login(VaultClient(http), soon())
        http.close()
    assert (token.value.reveal(), token.ttl, token.renewable) == (b"s.t", 60.0, True)
    body = json.loads(server.requests[0].partition(b"\r\n\r\n")[2])
    assert b"canary-secret-access-key" not in server.requests[0]
    assert body["role"] == "desk"
    listed = json.loads(base64.b64decode(body["iam_request_headers"]))
    headers = {name: values[0] for name, values in listed.items()}
    assert headers["X-Vault-AWS-IAM-Server-ID"] == "vault.internal"
    assert headers["Authorization"].endswith(signature(body, headers))


def signature(body: dict[str, str], headers: dict[str, str]) -> str:
    """What botocore signs the same request with."""
    unsigned = {name: value for name, value in headers.items() if name != "Authorization"}
    request = botocore.awsrequest.AWSRequest(
        body["iam_http_request_method"],
        base64.b64decode(body["iam_request_url"]).decode(),
        headers=unsigned,
        data=base64.b64decode(body["iam_request_body"]),
    )
    request.context["timestamp"] = headers["X-Amz-Date"]
    signer = botocore.auth.SigV4Auth(
        botocore.credentials.Credentials("AKIATESTTESTTESTTEST", "canary-secret-access-key"),
        "sts",
        "us-east-1",
    )
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return f"Signature={signer.signature(text, request)}"
