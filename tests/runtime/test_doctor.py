"""What doctor says of a machine, with the files of Linux that say it."""

import json
import os

import pytest

from mrnn_runtime.cli import doctor

pytestmark = pytest.mark.slow

X86 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\nprocessor\t: 1\nflags\t: x\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\n"
PLENTY = "MemTotal:       8000000 kB\nMemFree:  100 kB\nMemAvailable:    4000000 kB\n"
CGROUP = "/sys/fs/cgroup/"


@pytest.fixture
def machine(monkeypatch, mrnn):
    """Run doctor on a machine with these files; return its facts."""

    def run(files):
        monkeypatch.setattr(doctor, "_read", lambda path: files.get(path, ""))
        assert mrnn("doctor").code == 0
        return json.loads(mrnn("doctor", "--json").out)

    return run


def test_a_machine_with_everything(machine):
    facts = machine({"/proc/cpuinfo": X86, "/proc/meminfo": PLENTY})
    assert facts["cpu-features"] == ["avx2", "avx512", "avx512-vnni"]
    assert facts["int8"].startswith("the faster choice, for avx512-vnni")
    assert facts["memory"] == {"total": 7812, "available": 3906}
    assert facts["problems"] == [
        "no model is installed: pip install mrnn-everyday, or name a folder"
    ]
    assert 1 <= facts["threads"] <= os.cpu_count()


def test_an_arm_board(machine):
    facts = machine({"/proc/cpuinfo": ARM, "/proc/meminfo": "MemTotal: 900000 kB\n"})
    assert facts["cpu-features"] == ["neon", "dot-product"]
    assert facts["memory"] == {"total": 878}


def test_a_machine_that_says_nothing(machine):
    facts = machine({})
    assert facts["cpu-features"] == []
    assert facts["int8"].startswith("not measured")
    assert facts["memory"] == {}


def test_a_small_container(machine):
    facts = machine(
        {
            "/proc/meminfo": PLENTY,
            f"{CGROUP}memory.max": f"{512 * 2**20}\n",
            f"{CGROUP}memory.current": f"{200 * 2**20}\n",
        }
    )
    assert facts["memory"] == {"total": 512, "available": 312}
    assert "only 312 MB" in facts["problems"][-1]


def test_a_container_without_limits(machine):
    facts = machine({"/proc/meminfo": PLENTY, f"{CGROUP}memory.max": "max\n"})
    assert facts["memory"] == {"total": 7812, "available": 3906}
    assert len(facts["problems"]) == 1
