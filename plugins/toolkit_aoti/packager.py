"""The process in which packages are compiled: a script that imports PyTorch once, and forks for each package.

Run as `python -I packager.py`. Each line on standard input is a job in JSON; each line on standard output has the path
of a package and the exit status of the process that compiled it.
"""

import json
import os
import sys
import threading
import traceback
from typing import Any

import torch
import torch._inductor.compile_fx  # which compiling imports
import torch.export._trace


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        worker = os.fork()
        if worker == 0:
            os._exit(exit_status(job))
        threading.Thread(target=report_end, args=(worker, job["package"])).start()


def report_end(worker: int, package: str) -> None:
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    os.write(1, (json.dumps([package, status]) + "\n").encode())


def exit_status(job: dict[str, Any]) -> int:
    with open(job["messages"], "wb") as messages:
        os.dup2(messages.fileno(), 1)
        os.dup2(messages.fileno(), 2)
    try:
        compile_package(job)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def compile_package(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    with torch.no_grad():
        program = torch.export.load(job["program"])
        torch._inductor.aoti_compile_and_package(program, package_path=job["package"], inductor_configs=job["settings"])


if __name__ == "__main__":
    main()
