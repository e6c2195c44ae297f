"""What the CPU itself says of a hypervisor: CPUID leaf 0x40000000, asked in a process of its own.

Run as a program it prints the signatures, one a line. A process of its own, because a system may forbid memory that is
both written and executed, and may let the instruction fault. x86-64 only; other machines have no such instruction.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct

# Signatures of hypervisors -> the names that systemd-detect-virt has for them
SIGNATURES = {
    "KVMKVMKVM": "kvm", "Linux KVM Hv": "kvm", "TCGTCGTCGTCG": "qemu", "VMwareVMware": "vmware",
    "Microsoft Hv": "microsoft", "XenVMMXenVMM": "xen", "VBoxVBoxVBox": "oracle", "bhyve bhyve ": "bhyve",
    "QNXQVMBSQG": "qnx", "ACRNACRNACRN": "acrn", " lrpepyh  vr": "parallels", "prl hyperv  ": "parallels",
    "SRESRESRESRE": "sre", "Apple VZ": "apple",
}  # fmt: skip
# mov eax, edi; xor ecx, ecx; push rbx; cpuid; mov [rsi], eax; mov [rsi+4], ebx; mov [rsi+8], ecx; mov [rsi+12], edx;
# pop rbx; ret: called with the leaf and the address of four numbers
_CODE = bytes.fromhex("89f8 31c9 53 0fa2 8906 895e04 894e08 89560c 5b c3".replace(" ", ""))


def name_of(signatures: list[str]) -> str | None:
    """The hypervisor of some signatures; one that another imitates (KVM as Hyper-V) is named itself."""
    found = [SIGNATURES[text] for raw in signatures for text in (raw.strip("\0"), raw) if text in SIGNATURES]
    return next((name for name in found if name != "microsoft"), found[0] if found else None)


def signatures() -> list[str]:
    """Texts of the leaves 0x40000000 and 0x40000100; OSError where memory may not be executed."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ask = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.POINTER(ctypes.c_uint32))(address)
    answer = (ctypes.c_uint32 * 4)()
    found = []
    for leaf in (0x40000000, 0x40000100):
        ask(leaf, answer)
        text = struct.pack("<3I", *answer[1:]).decode("ascii", "replace").rstrip("\0")
        if text and text not in found:
            found.append(text)
    return found


def has_hypervisor() -> bool:
    """The bit in leaf 1 that says whether the leaves above mean anything."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        return any(line.startswith("flags") and " hypervisor" in line for line in file)


if __name__ == "__main__" and platform.machine() == "x86_64" and has_hypervisor():
    print("\n".join(signatures()))
