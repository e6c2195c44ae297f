"""In place of flashinfer, of which SGLang 0.5.17 imports four names on every GPU of NVIDIA, whatever it will use.

No name but these: SGLang tries others, and does without them. SGLANG_IS_FLASHINFER_AVAILABLE=false, which
unpack.sh sets, tells it that there is no flashinfer at all.
"""


def bmm_fp8(*args: object, **kwargs: object) -> None:
    raise NotImplementedError("flashinfer is not in this pack: no batched product in fp8")
