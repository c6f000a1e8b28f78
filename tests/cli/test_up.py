"""`up`: says where everything is, and ends in order."""

import signal

from command_line import CommandLine, finished, only_line

from batch_pipeline.local.s3 import free_port


def test_up_shows_the_addresses_and_exits_with_0_on_a_signal(cli: CommandLine) -> None:
    port = free_port()
    ports = ["--port", str(port), "--api-port", str(free_port()), "--s3-port", str(free_port())]
    hidden = ("BATCH_", "AWS_", "DAGSTER_")
    bare = {name: value for name, value in cli.environment.items() if not name.startswith(hidden)}
    here = CommandLine(bare, cli.folder)
    with here.start("up", "--data-dir", "data", *ports) as process:
        assert process.stdout is not None
        shown = ""
        while "Ctrl-C" not in shown:
            line = process.stdout.readline()
            assert line, process.stderr
            shown += line
        taken = here.process("up", "--data-dir", "other", *ports)
        second = here.process("up", "--data-dir", "data")
        process.send_signal(signal.SIGTERM)
        ended = finished(process)

    assert f"http://127.0.0.1:{port}" in shown
    assert f"http://127.0.0.1:{ports[3]}" in shown
    assert (cli.folder / "data" / "api-key").read_text().strip() in shown
    assert (cli.folder / "data" / "api-key").stat().st_mode & 0o077 == 0
    assert "data/s3/batch/uploads/" in shown
    assert ended.returncode == 0, ended.stderr
    assert taken.returncode == 2
    assert "--port" in only_line(taken.stderr)
    assert second.returncode == 2
    for part in ("already running", f"http://127.0.0.1:{port}", f"http://127.0.0.1:{ports[3]}", "--data-dir"):
        assert part in only_line(second.stderr)
