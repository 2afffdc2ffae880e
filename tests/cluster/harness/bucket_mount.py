"""The bucket as a folder: s3fs over the gateway, what S3-backed volume claims are made of."""

import subprocess

from harness.commands import output
from harness.locations import BUCKET, MOUNT, REGION, STATE
from harness.processes import wait_until


def mount_bucket(endpoint: str, credentials: str) -> None:
    """Mount the bucket; `credentials` are access and secret key with a colon between."""
    passwords = STATE / "s3fs.password"
    passwords.touch(mode=0o600)
    passwords.write_text(f"{credentials}\n", encoding="utf-8")
    MOUNT.mkdir(parents=True, exist_ok=True)
    options = (
        f"url={endpoint},use_path_request_style,passwd_file={passwords},endpoint={REGION},"
        # Objects that arrive by S3 must be seen at once.
        "allow_other,umask=000,stat_cache_expire=1"
    )
    output("s3fs", BUCKET, MOUNT, "-o", options)
    wait_until("the bucket's mount", MOUNT.is_mount, timeout=20)


def unmount() -> None:
    """Take the bucket's mount away, also when its process has died."""
    subprocess.run(["umount", "--lazy", str(MOUNT)], check=False, capture_output=True)
