"""What NVIDIA's driver says of the GPU, asked without any package."""

from __future__ import annotations

import ctypes

DRIVER = "libcuda.so.1"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def missing_gpu() -> str | None:
    """Returns what is missing to run an engine, None if nothing is."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as error:
        return f"there is no NVIDIA driver ({error})"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return f"the NVIDIA driver finds no GPU (error {status})" if status or not count.value else None


def architecture() -> str:
    """Returns the compute capability of the first GPU, such as `sm89`. Raises `OSError` without a driver."""
    driver = ctypes.CDLL(DRIVER)
    driver.cuInit(0)
    digits = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
        digits.append(str(value.value))
    return f"sm{''.join(digits)}"
