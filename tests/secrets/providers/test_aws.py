"""Against moto's Secrets Manager: reads, batches, versions, stages, writes; signatures against
botocore's own signer; credentials from every place that a pod has them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.aws.sigv4 import Credentials, signed
from agent.secrets.errors import DeniedError, NotFoundError, UnavailableError
from agent.secrets.model import Fetched
from agent.secrets.providers.aws.credentials import CredentialSource, credential_source
from agent.secrets.providers.http import ThrottledError
from agent.units import SecretName, UnixTime
from tests.faults.clock import FakeClock
from tests.faults.proxy import FaultServer, response, says
from tests.secrets.providers.conftest import MakeAws, soon


def n(text: str) -> SecretName:
    return SecretName(text)


@pytest.fixture(scope="module")
def manager(moto: str) -> Any:
    """AWS's own client of the same server."""
    client = botocore.session.Session().create_client(
        "secretsmanager",
        region_name="eu-west-1",
        endpoint_url=moto,
        aws_access_key_id="AKIATESTTESTTESTTEST",
        aws_secret_access_key="x" * 40,
    )
    yield client
    client.close()


def test_texts_objects_and_bytes_are_read_with_their_version(
    moto: str, manager: Any, aws: MakeAws
) -> None:
    made = manager.create_secret(Name="obj", SecretString='{"user": "desk", "pw": "ü💶"}')
    manager.create_secret(Name="txt", SecretString="007")
    manager.create_secret(Name="bin", SecretBinary=bytes(range(256)))
    provider = aws(moto)
    fetched = provider.read(n("obj"), soon())
    assert json.loads(fetched.value.reveal()) == {"user": "desk", "pw": "ü💶"}
    assert (fetched.kind, fetched.version, fetched.provider) == ("json", made["VersionId"], "aws")
    text = provider.read(n("txt"), soon())
    assert (text.kind, text.value.reveal()) == ("text", b"007")
    binary = provider.read(n("bin"), soon())
    assert (binary.kind, binary.value.reveal()) == ("bytes", bytes(range(256)))


def test_stages_and_pinned_versions_are_read_while_a_rotation_overlaps(
    moto: str, manager: Any, aws: MakeAws
) -> None:
    first = manager.create_secret(Name="staged", SecretString="old")["VersionId"]
    manager.put_secret_value(SecretId="staged", SecretString="new")
    manager.put_secret_value(SecretId="staged", SecretString="next", VersionStages=["AWSPENDING"])
    provider = aws(moto, pins={"staged": first})
    assert provider.read(n("staged"), soon()).value.reveal() == b"old"
    for stage, expected in (
        ("AWSCURRENT", b"new"),
        ("AWSPREVIOUS", b"old"),
        ("AWSPENDING", b"next"),
    ):
        assert provider.read_version(n("staged"), stage, soon()).value.reveal() == expected


def test_fifty_names_come_in_three_batches_each_with_its_own_answer(
    moto: str, manager: Any, aws: MakeAws
) -> None:
    names = [n(f"desk/many/{at}") for at in range(50)]
    for at, name in enumerate(names):
        manager.create_secret(Name=name, SecretString=f"value-{at}")
    short = [n(name.removeprefix("desk/")) for name in names]
    answers = aws(moto, prefix="desk/").read_many([*short, n("many/absent")], soon(30.0))
    for at, name in enumerate(short):
        answer = answers[name]
        assert isinstance(answer, Fetched), answer
        assert (answer.name, answer.value.reveal()) == (name, f"value-{at}".encode())
    assert isinstance(answers[n("many/absent")], NotFoundError)


def test_a_missing_or_deleted_secret_is_not_found(moto: str, manager: Any, aws: MakeAws) -> None:
    manager.create_secret(Name="doomed", SecretString="x")
    manager.delete_secret(SecretId="doomed", RecoveryWindowInDays=7)
    for name in ("never-made", "doomed"):
        with pytest.raises(NotFoundError):
            aws(moto).read(n(name), soon())


def test_the_marker_moves_with_the_sentinels_version(moto: str, manager: Any, aws: MakeAws) -> None:
    provider = aws(moto, sentinel="epoch")
    absent = provider.marker(soon())
    manager.create_secret(Name="epoch", SecretString="1")
    one = provider.marker(soon())
    assert provider.marker(soon()) == one != absent
    manager.put_secret_value(SecretId="epoch", SecretString="2")
    assert provider.marker(soon()) != one


def test_what_is_written_is_what_aws_itself_then_holds(
    moto: str, manager: Any, aws: MakeAws
) -> None:
    provider = aws(moto)
    first = provider.write(n("made"), b'{"a": 1}', description="told")
    second = provider.write(n("made"), b'"plain"', description="told again")
    seen = manager.get_secret_value(SecretId="made")
    assert (seen["SecretString"], seen["VersionId"]) == ("plain", second)
    assert second != first
    described = manager.describe_secret(SecretId="made")
    assert described["Description"] == "told again"
    assert {"Key": "type", "Value": "api_key"} in described["Tags"]


def refusal(code: str, status: str = "400 Bad Request") -> bytes:
    body = {"__type": f"com.amazonaws#{code}", "Message": "canary-in-a-message"}
    return response(json.dumps(body).encode(), status)


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ThrottlingException", "400 Bad Request", ThrottledError),
        ("InternalServiceError", "500 Oops", ThrottledError),
        ("AccessDeniedException", "400 Bad Request", DeniedError),
        ("UnrecognizedClientException", "400 Bad Request", DeniedError),
        ("ResourceNotFoundException", "400 Bad Request", NotFoundError),
    ],
)
def test_each_of_awss_errors_is_told_apart_and_its_message_never_repeated(
    aws: MakeAws, code: str, status: str, kind: type[Exception]
) -> None:
    with FaultServer(says(refusal(code, status))) as server, pytest.raises(kind) as caught:
        aws(server.url).read(n("any"), soon())
    assert "canary" not in repr(caught.value) + caught.value.told()  # type: ignore[attr-defined]


def test_single_reads_take_over_where_the_batch_is_denied_and_it_is_not_asked_again(
    aws: MakeAws,
) -> None:
    asked: list[str] = []
    value = {"Name": "x", "VersionId": "v1", "SecretString": "one"}

    def answer(connection: Any) -> None:
        action = "batch" if len(asked) == 0 else "single"
        asked.append(action)
        denied = refusal("AccessDeniedException")
        connection.sendall(denied if action == "batch" else response(json.dumps(value).encode()))

    with FaultServer(answer) as server:
        provider = aws(server.url)
        for _ in range(2):
            answers = provider.read_many([n("a"), n("b")], soon())
            assert all(isinstance(found, Fetched) for found in answers.values()), answers
    assert asked == ["batch", *["single"] * 4]


def test_a_clock_that_is_off_is_allowed_for_after_one_refusal(aws: MakeAws) -> None:
    value = {"Name": "x", "VersionId": "v1", "SecretString": "one"}
    answers = [
        refusal("InvalidSignatureException").replace(
            b"\r\n\r\n", b"\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n", 1
        ),
        response(json.dumps(value).encode()),
    ]
    with FaultServer(lambda connection: connection.sendall(answers.pop(0))) as server:
        assert aws(server.url).read(n("x"), soon()).value.reveal() == b"one"


# -- signatures ------------------------------------------------------------------------------------


@given(
    body=st.binary(max_size=200),
    action=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
    token=st.none() | st.just("session/token+with=signs"),
    path=st.sampled_from(["/", "/a/b", "/with space", "/ümlaut"]),
    seconds=st.integers(0, 4_000_000_000),
)
def test_our_signature_is_botocores(
    body: bytes, action: str, token: str | None, path: str, seconds: int
) -> None:
    headers = {"Host": "secretsmanager.eu-west-1.amazonaws.com", "X-Amz-Target": action}
    credentials = Credentials("AKIAEXAMPLE", "sEcReT/kEy+1", token)
    ours = signed(
        *("POST", path, headers, body, credentials, "eu-west-1", "secretsmanager"),
        now=UnixTime(float(seconds)),
    )
    request = botocore.awsrequest.AWSRequest(
        "POST", f"https://{headers['Host']}{path}", headers=headers, data=body
    )
    signer = botocore.auth.SigV4Auth(
        botocore.credentials.Credentials("AKIAEXAMPLE", "sEcReT/kEy+1", token),
        "secretsmanager",
        "eu-west-1",
    )
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%dT%H%M%SZ")
    request.context["timestamp"] = stamp
    signer._modify_request_before_signing(request)
    del request.headers["X-Amz-Date"]
    request.headers["X-Amz-Date"] = stamp
    text = signer.string_to_sign(request, signer.canonical_request(request))
    assert ours["Authorization"].endswith(f"Signature={signer.signature(text, request)}")


# -- credentials -----------------------------------------------------------------------------------


def got(source: CredentialSource) -> tuple[str, str, str | None]:
    found = source.get(soon())
    return found.access_key, found.secret_key, found.token


OFF = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}


def test_keys_in_the_environment_are_used(tmp_path: Path) -> None:
    env = {**OFF, "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
    assert got(credential_source(environ=env)) == ("AK", "SK", None)


def test_a_named_profile_outweighs_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[desk]\naws_access_key_id = PK\naws_secret_access_key = P%K\n")
    env = {**OFF, "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"}
    env["AWS_SHARED_CREDENTIALS_FILE"] = str(file)
    assert got(credential_source(environ=env, profile="desk")) == ("PK", "P%K", None)
    with pytest.raises(UnavailableError, match="other"):
        credential_source(environ=env, profile="other").get(soon())


def test_a_web_identity_is_exchanged_at_sts(moto: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a.projected.token")
    env = {
        **OFF,
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/trader",
    }
    found = credential_source(environ=env, sts_endpoint=moto).get(soon())
    assert found.access_key.startswith("ASIA")
    assert found.token
    assert found.expires is not None


def test_pod_identity_is_asked_with_the_token_of_its_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("pod-token")
    tree = {"AccessKeyId": "CK", "SecretAccessKey": "CS", "Token": "CT", "Expiration": EXPIRES}
    with FaultServer(says(response(json.dumps(tree).encode()))) as server:
        env = {
            **OFF,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{server.url}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        }
        assert got(credential_source(environ=env)) == ("CK", "CS", "CT")


def test_a_container_endpoint_elsewhere_without_tls_is_refused() -> None:
    env = {**OFF, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://evil.example/credentials"}
    with pytest.raises(UnavailableError, match="without TLS"):
        credential_source(environ=env).get(soon())


def test_the_instance_is_asked_by_a_session_of_version_two() -> None:
    tree = {"AccessKeyId": "IK", "SecretAccessKey": "IS", "Token": "IT", "Expiration": EXPIRES}
    answers = [b"session", b"trader-role", json.dumps(tree).encode()]
    with FaultServer(lambda c: c.sendall(response(answers.pop(0)))) as server:
        env = {"HOME": "/nonexistent", "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url}
        assert got(credential_source(environ=env)) == ("IK", "IS", "IT")


def test_without_any_the_remedy_names_where_a_pod_gets_them() -> None:
    with pytest.raises(UnavailableError) as caught:
        credential_source(environ=OFF).get(soon())
    assert "IRSA" in caught.value.remedy


EXPIRES = "2099-01-01T00:00:00Z"


def test_credentials_are_renewed_ahead_of_their_end_and_kept_while_that_fails() -> None:
    clock = FakeClock()
    made: list[Credentials] = []
    down = False

    def source(_deadline: object) -> Credentials:
        if down:
            raise UnavailableError("STS is away")
        made.append(Credentials(f"K{len(made)}", "s", "t", UnixTime(clock.now() + 3600)))
        return made[-1]

    held = CredentialSource((source,), clock)
    assert held.get(soon()).access_key == "K0"
    clock.tick(2000)
    assert held.get(soon()).access_key == "K0"
    clock.tick(1100)  # fewer than ten minutes are left
    assert held.get(soon()).access_key == "K1"
    down = True
    clock.tick(3100)
    assert held.get(soon()).access_key == "K1"
    clock.tick(600)
    with pytest.raises(UnavailableError):
        held.get(soon())
