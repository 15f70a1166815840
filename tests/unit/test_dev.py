import re
import subprocess
import sys
from pathlib import Path

DEV = Path(__file__).parent.parent.parent / "dev"
IMPORTS_THROUGH_IT = "import site, sys; site.addsitedir(sys.argv[1]); import of_a_clone"


def test_below_a_folder_with_an_umlaut_python_starts_in_every_locale(tmp_path: Path) -> None:
    """Python reads .pth files in the encoding of the locale, which is ASCII with LC_ALL=C, and ends where it cannot."""
    spell = re.search(r"^SPELL_IN_ASCII='\n(.*?)^'", DEV.read_text(), re.MULTILINE | re.DOTALL)
    assert spell is not None
    clone = tmp_path / "größer und 'schöner'"
    packages = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    for folder in (clone, packages):
        folder.mkdir(parents=True)
    (clone / "of_a_clone.py").write_text("")
    (packages / "_editable_impl_wattline.pth").write_text(f"{clone}\n", encoding="utf-8")
    subprocess.run([sys.executable, "-I", "-S", "-c", spell[1]], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-c", IMPORTS_THROUGH_IT, str(packages)], env={"LC_ALL": "C"}, check=True)
