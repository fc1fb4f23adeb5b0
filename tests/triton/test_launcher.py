"""Starting and stopping a tritonserver: clear reasons, quick ends, nothing left behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from backdrop_server.errors import SetupError
from backdrop_server.triton.board import SHM_FOLDER, board_path
from backdrop_server.triton.launcher import LaunchSettings, TritonServer
from backdrop_server.triton.leftovers import sweep_dead_servers

pytestmark = pytest.mark.triton

BACKDROP = Path(sys.executable).with_name("backdrop")
CONFIG = """
name: "replace_background"
backend: "python"
max_batch_size: 1
input [ { name: "seconds" data_type: TYPE_FP32 dims: [1] } ]
output [ { name: "slept" data_type: TYPE_FP32 dims: [1] } ]
"""
MODEL = """
import os, time
import numpy as np
import triton_python_backend_utils as pb_utils
from backdrop_server.triton.board import Board, Stage, board_path


class TritonPythonModel:
    def initialize(self, args):
        self._board = Board(board_path(os.getppid()))

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        seconds = pb_utils.get_input_tensor_by_name(request, "seconds").as_numpy()
        self._board.enter("sleeper", 8)
        time.sleep(float(seconds[0, 0]))
        self._board.move("sleeper", Stage.ENDED)
        return pb_utils.InferenceResponse([pb_utils.Tensor("slept", seconds)])
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that starts in a second: its one model sleeps, and says so on the board."""
    folder = tmp_path_factory.mktemp("small")
    model = folder / "replace_background"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    (model / "1" / "model.py").write_text(MODEL)
    return folder


def make(repository: Path, **settings: Any) -> TritonServer:
    """A server on free ports; ``small`` can make no first pictures."""
    own = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "first_pictures": False}
    return TritonServer(LaunchSettings(repository, **(own | settings)), on_line=lambda line: None)


def sleep(server: TritonServer, seconds: float, module: Any = grpcclient) -> float:
    """One request that takes ``seconds``; over HTTP the connection is closed at its end."""
    url = server.grpc_url if module is grpcclient else server.http_url
    with module.InferenceServerClient(url) as client:
        return ask_to_sleep(client, seconds, module)


def ask_to_sleep(client: Any, seconds: float, module: Any) -> float:
    given = module.InferInput("seconds", [1, 1], "FP32")
    given.set_data_from_numpy(np.array([[seconds]], np.float32))
    return float(client.infer("replace_background", [given]).as_numpy("slept")[0, 0])


def files_of(launcher_pid: int) -> set[str]:
    """Shared memory and folders that are named after a launcher's process."""
    folders = SHM_FOLDER, Path(tempfile.gettempdir())
    return {str(file) for folder in folders for file in folder.glob(f"backdrop-{launcher_pid}-*")}


def leftovers(server_pid: int, launcher_pid: int | None = None) -> set[str]:
    """Processes of a server's group, and files that are named after it or its launcher."""
    board = {str(path) for path in [board_path(server_pid)] if path.exists()}
    processes = {str(process) for process in group(server_pid)}
    return files_of(launcher_pid or os.getpid()) | board | processes


def group(leader: int) -> list[psutil.Process]:
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def scratch_folders() -> set[Path]:
    return set(Path("/tmp").glob("python_env_*"))  # noqa: S108 (Triton's own choice)


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether ``condition`` holds before ``seconds`` are over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


# --- what is checked before the start -------------------------------------------------------------


@pytest.mark.parametrize("name", ["http_port", "grpc_port", "metrics_port"])
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 (somebody else's)
def test_a_taken_port_is_named(small: Path, name: str, address: str) -> None:
    with socket.create_server((address, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match=f"^port {port} is taken; choose another one$"):
            make(small, **{name: port})


def test_one_port_for_two_protocols_is_refused(small: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SetupError, match=f"port {port} is given twice"):
        make(small, http_port=port, metrics_port=port)


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_refused(small: Path, host: str) -> None:
    with pytest.raises(SetupError, match=rf"^cannot listen on {host}: "):
        make(small, host=host)


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(SetupError, match=r"is not a built model repository; .*backdrop-export"):
            make(folder)


def test_a_log_file_that_cannot_be_written_is_refused(small: Path, tmp_path: Path) -> None:
    before = scratch_folders()
    server = make(small, log_file=tmp_path)
    with pytest.raises(SetupError, match=r"^cannot write the log file .*: Is a directory$"):
        server.start()
    assert scratch_folders() <= before


def test_a_server_that_is_not_started_has_no_process(small: Path) -> None:
    server = make(small)
    server.stop()
    with pytest.raises(SetupError, match="not started"):
        server.poll()
    with pytest.raises(SetupError, match="not started"):
        _ = server.pid
    assert not server.is_ready()


# --- failing starts -------------------------------------------------------------------------------


@pytest.fixture
def with_encoder(small: Path, repository: Path, tmp_path: Path) -> Path:
    """The small repository with a copy of the text encoder beside its model."""
    folder = tmp_path / "repository"
    shutil.copytree(small, folder)
    shutil.copytree(repository / "text_encoder", folder / "text_encoder")
    return folder


def damage_largest(folder: Path) -> None:
    """Cut the weights in half; of an ONNX file: the file."""
    file = max(folder.glob("model.*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def damage_smallest(folder: Path) -> None:
    file = min(folder.glob("model.*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove_largest(folder: Path) -> None:
    max(folder.glob("model.*"), key=lambda path: path.stat().st_size).unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_largest, r"model text_encoder: model\.\w+ is not a graph that \w+ can load"),
        (damage_smallest, r"model text_encoder: model\.\w+ is not a graph that \w+ can load"),
        (remove_largest, r"model text_encoder: engine file model\.\w+ is missing in \S+"),
    ],
)
def test_a_bad_engine_file_is_the_reason(
    with_encoder: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(with_encoder / "text_encoder" / "1")
    server, before = make(with_encoder), scratch_folders()
    others = files_of(os.getpid())
    with pytest.raises(SetupError, match=f"^tritonserver did not start: {reason}$"):
        server.start()
    assert files_of(os.getpid()) == others
    assert scratch_folders() <= before


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("config.pbtxt", CONFIG + "nonsense: 3", "failed to read text proto from .*config.pbtxt"),
        ("1/model.py", "import nothing_here", "model replace_background: No module named '.*'"),
        ("1/model.py", "x = [", r"model replace_background: .*never closed.*"),
    ],
)
def test_a_bad_model_is_the_reason(
    small: Path, tmp_path: Path, file: str, text: str, reason: str
) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(small, folder)
    (folder / "replace_background" / file).write_text(text)
    with pytest.raises(SetupError, match=f"^tritonserver did not start: .*{reason}$"):
        make(folder).start()


def test_a_binary_that_is_no_program_is_the_reason(small: Path, tmp_path: Path) -> None:
    home = tmp_path / "tritonserver"
    (home / "backends" / "python").mkdir(parents=True)
    (home / "bin").mkdir()
    binary = home / "bin" / "tritonserver"
    binary.write_text("not a program")
    server = make(small, tritonserver=binary)
    with pytest.raises(SetupError, match=r"^cannot run .*/tritonserver: Permission denied$"):
        server.start()


def test_a_server_that_cannot_make_a_picture_does_not_start(small: Path) -> None:
    before = files_of(os.getpid())
    server = make(small, first_pictures=True)
    with pytest.raises(SetupError, match=r"the server cannot make a picture: .*image"):
        server.start()
    assert files_of(os.getpid()) == before


def test_a_start_that_takes_too_long_is_given_up(small: Path) -> None:
    server = make(small, start_timeout=0.0, stop_timeout=3.0)
    with pytest.raises(SetupError, match="not ready after 0 s"):
        server.start()
    assert not group_of_launcher()


def group_of_launcher() -> list[psutil.Process]:
    """Our running children called tritonserver that serve the small repository."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("small" in argument for argument in child.cmdline()):
                found.append(child)
    return found


# --- ends -----------------------------------------------------------------------------------------


def test_nothing_is_left_after_a_stop(small: Path) -> None:
    before, others = scratch_folders(), files_of(os.getpid())
    with make(small) as server:
        pid = server.pid
        assert server.is_ready()
        assert sleep(server, 0) == 0
        assert len(group(pid)) >= 2
        assert leftovers(pid) > others
    assert leftovers(pid) == others
    assert scratch_folders() <= before
    assert not server.is_ready()


def test_a_server_can_be_started_again(small: Path) -> None:
    server = make(small)
    for _ in range(2):
        with server:
            assert sleep(server, 0) == 0


@pytest.mark.parametrize("victim", ["server", "stub"])
def test_nothing_is_left_after_a_kill(small: Path, victim: str) -> None:
    before, others = scratch_folders(), files_of(os.getpid())
    server = make(small)
    server.start()
    pid = server.pid
    target = pid if victim == "server" else psutil.Process(pid).children()[0].pid
    os.kill(target, signal.SIGKILL)
    if victim == "server":
        assert within(10, lambda: server.poll() == -signal.SIGKILL)
    server.stop()
    assert leftovers(pid) == others
    assert scratch_folders() <= before


def dead_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_what_dead_servers_left_is_swept_at_the_next_start(small: Path) -> None:
    dead, temporary = dead_pid(), Path(tempfile.gettempdir())
    gone = [SHM_FOLDER / f"backdrop-{dead}-0a1b-region", board_path(dead)]
    kept = [SHM_FOLDER / f"backdrop-{os.getppid()}-test-region", SHM_FOLDER / "backdrop-other"]
    folder, live_folder = temporary / f"backdrop-{dead}-x", temporary / f"backdrop-{os.getppid()}-x"
    for file in gone + kept:
        file.touch()
    for each in (folder, live_folder):
        (each / "python").mkdir(parents=True)
    try:
        with make(small):
            assert not any(path.exists() for path in (*gone, folder))
            assert all(path.exists() for path in (*kept, live_folder))
    finally:
        for file in kept:
            file.unlink(missing_ok=True)
        shutil.rmtree(live_folder)


def test_two_servers_do_not_disturb_each_other(small: Path) -> None:
    with make(small) as first:
        with make(small) as second:
            assert first.http_port != second.http_port
            assert sleep(first, 0) == sleep(second, 0) == 0
            second_pid = second.pid
        assert not group(second_pid) and not board_path(second_pid).exists()
        assert first.is_ready() and board_path(first.pid).exists()
        assert sleep(first, 0, httpclient) == 0


def test_idle_connections_do_not_hold_up_a_stop(small: Path) -> None:
    """Triton alone waits for its exit timeout while one HTTP connection is open: 8 s."""
    server = make(small)
    server.start()
    with (
        socket.create_connection(("127.0.0.1", server.http_port)),
        httpclient.InferenceServerClient(server.http_url) as http_idle,
        grpcclient.InferenceServerClient(server.grpc_url) as grpc_idle,
    ):
        ask_to_sleep(http_idle, 0, httpclient)
        ask_to_sleep(grpc_idle, 0, grpcclient)
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("module", [grpcclient, httpclient], ids=["grpc", "http"])
def test_a_request_in_flight_is_answered_before_the_stop(small: Path, module: Any) -> None:
    server, slept = make(small), []
    server.start()
    client = threading.Thread(target=lambda: slept.append(sleep(server, 2.0, module)))
    client.start()
    time.sleep(0.4)
    began = time.monotonic()
    server.stop()
    seconds = time.monotonic() - began
    client.join()
    assert slept == [2.0]
    assert 1.0 < seconds < 9.0


@pytest.mark.parametrize("module", [grpcclient, httpclient], ids=["grpc", "http"])
def test_a_request_that_outlasts_the_stop_is_cut_off(small: Path, module: Any) -> None:
    server, errors = make(small, stop_timeout=3.0), []

    def send() -> None:
        try:
            sleep(server, 60.0, module)
        except Exception as error:  # each protocol has its own
            errors.append(error)

    server.start()
    pid = server.pid
    client = threading.Thread(target=send)
    client.start()
    time.sleep(0.4)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 4.5
    client.join(timeout=10)
    assert len(errors) == 1
    assert not group(pid)


# --- what a running server lets in ----------------------------------------------------------------


def test_every_port_is_on_loopback_only(server: TritonServer) -> None:
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    sockets = [connection for process in processes for connection in process.net_connections()]
    listening = {
        (found.laddr.ip.removeprefix("::ffff:"), found.laddr.port)  # gRPC's is an IPv6 socket
        for found in sockets
        if found.status == psutil.CONN_LISTEN
    }
    ports = {server.http_port, server.grpc_port, server.metrics_port}
    assert listening == {("127.0.0.1", port) for port in ports}


def test_a_server_on_every_address_is_reached_on_loopback(small: Path) -> None:
    every = "0.0.0.0"  # noqa: S104 (what this test is of)
    with make(small, host=every) as server:
        assert sleep(server, 0.0) == 0.0
        connections = psutil.Process(server.pid).net_connections()
        addresses = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert addresses <= {every, "::"}


def call_http(server: TritonServer, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body=None if method == "GET" else "{}")
        return connection.getresponse().status


RESTRICTED = [
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/r/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/region/r/register"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/preprocess/load"),
    ("POST", "/v2/repository/models/preprocess/unload"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/models/denoise/trace/setting"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
]


@pytest.mark.parametrize(("method", "path"), RESTRICTED)
def test_restricted_calls_are_refused_over_http(
    server: TritonServer, method: str, path: str
) -> None:
    assert call_http(server, method, path) == http.client.FORBIDDEN


def test_restricted_calls_are_refused_over_grpc(
    grpc_client: grpcclient.InferenceServerClient,
) -> None:
    calls: list[Callable[[], object]] = [
        grpc_client.get_system_shared_memory_status,
        lambda: grpc_client.register_system_shared_memory("r", "/key", 8),
        grpc_client.get_cuda_shared_memory_status,
        grpc_client.get_model_repository_index,
        lambda: grpc_client.load_model("preprocess"),
        lambda: grpc_client.unload_model("preprocess"),
        grpc_client.get_trace_settings,
        lambda: grpc_client.update_log_settings({"log_verbose_level": 1}),
        grpc_client.get_log_settings,
    ]
    for call in calls:
        with pytest.raises(InferenceServerException, match="restricted"):
            call()


def test_open_calls_still_work(
    server: TritonServer, grpc_client: grpcclient.InferenceServerClient
) -> None:
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/denoise/stats"):
        assert call_http(server, "GET", path) == http.client.OK
    assert grpc_client.is_server_ready()
    assert grpc_client.get_model_metadata("replace_background").name == "replace_background"


# --- backdrop serve -------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(repository: Path) -> Iterator[subprocess.Popen[str]]:
    command = [str(BACKDROP), "serve", "--repository", str(repository), "--port=0"]
    ports = [f"--triton-{name}-port=0" for name in ("http", "grpc", "metrics")]
    with (
        tempfile.TemporaryDirectory() as data,
        subprocess.Popen(
            [*command, *ports, "--data-dir", data], stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def child_of(process: subprocess.Popen[str]) -> int:
    """The tritonserver of a ``backdrop serve``."""
    children: list[psutil.Process] = []

    def has_child() -> bool:
        children.clear()
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ended while we looked
            of_serve = psutil.Process(process.pid).children()
            children[:] = [child for child in of_serve if child.name() == "tritonserver"]
        return bool(children)

    assert within(30, has_child)
    return children[0].pid


def read_until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    line = next(line for line in process.stderr if '"level": "INFO"' not in line)
    assert "Triton is ready: gRPC 127.0.0.1:" in line
    return line


@pytest.mark.parametrize(
    ("number", "when"),
    [(signal.SIGTERM, "ready"), (signal.SIGINT, "ready"), (signal.SIGTERM, "starting")],
)
def test_serve_ends_cleanly_by_a_signal(
    repository: Path, number: signal.Signals, when: str
) -> None:
    before = scratch_folders()
    with serving(repository) as process:
        pid = child_of(process)
        if when == "ready":
            read_until_ready(process)
        process.send_signal(number)
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0
        assert rest.splitlines()[-1] == "stopped"
    # A signal amid the spawning leaves the end of the server to the kernel, which takes a moment.
    assert within(2, lambda: leftovers(pid, process.pid) == set()), leftovers(pid, process.pid)
    assert scratch_folders() <= before


def test_a_killed_serve_takes_its_server_along(repository: Path) -> None:
    with serving(repository) as process:
        pid = child_of(process)
        read_until_ready(process)
        process.kill()
        process.wait()
    assert within(15, lambda: not group(pid))
    assert board_path(pid).exists()  # nobody was there to remove it
    sweep_dead_servers()
    assert leftovers(pid, process.pid) == set()


def test_serve_starts_a_dead_server_again_at_the_same_ports(repository: Path) -> None:
    with serving(repository) as process:
        first = child_of(process)
        ready = read_until_ready(process)
        os.kill(first, signal.SIGKILL)
        assert process.stderr is not None
        sentence = "tritonserver ended by itself with status -9; starting it again"
        assert any(line.strip() == sentence for line in process.stderr)
        assert read_until_ready(process) == ready
        second = child_of(process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert leftovers(first, process.pid) == leftovers(second, process.pid) == set()


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BACKDROP), "serve", *arguments], capture_output=True, text=True, check=False
    )


def test_serve_says_in_one_sentence_that_there_is_no_repository(tmp_path: Path) -> None:
    done = run_serve("--repository", str(tmp_path / "nothing [here]"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"error: {tmp_path / 'nothing [here]'} is not a built model repository; "
        "make one with: backdrop-export repository"
    ]


def test_serve_says_in_one_sentence_that_a_port_is_taken(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_serve("--repository", str(repository), "--triton-http-port", str(port))
    assert done.returncode == 1
    assert done.stderr == f"error: port {port} is taken; choose another one\n"
