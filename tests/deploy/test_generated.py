"""What can be held without helm or a cluster: copies are current, pins agree, values and schema name the same keys."""

import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

try:
    import yaml
except ImportError:
    yaml = None

ROOT = pathlib.Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "normlab"
DOCKER = ROOT / "deploy" / "docker"


def pins(text):
    return dict(re.findall(r"^([a-z0-9-]+)==([0-9.]+)$", text, re.MULTILINE))


class Generated(unittest.TestCase):
    def test_the_chart_holds_the_dashboards_and_rules_of_today_and_the_readme_its_values(self):
        done = subprocess.run([sys.executable, ROOT / "deploy" / "helm" / "generate.py", "--check"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_images_have_the_torch_that_the_build_has(self):
        wheels = re.search(r"TORCH_WHEELS=\((.*)\)", (ROOT / "dev").read_text())[1].split()
        self.assertEqual(pins((DOCKER / "torch-cpu.txt").read_text()), pins("\n".join(wheels)))
        peers = pins((ROOT / "tests" / "peers" / "requirements.txt").read_text())
        cuda = pins((DOCKER / "torch-cuda.txt").read_text())
        self.assertEqual(cuda, {name: peers.get(name) for name in cuda})
        self.assertIn("nvidia-nccl-cu13", cuda)

    def test_every_file_that_a_stage_copies_reaches_the_build(self):
        allowed = re.findall(r"^!(.+)$", (DOCKER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
        for line in re.findall(r"^COPY (?!--from)(.*)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE):
            for source in [word for word in line.split() if not word.startswith("--")][:-1]:
                self.assertTrue((ROOT / source).exists(), source)
                self.assertTrue(any(source == entry or source.startswith(entry + "/") for entry in allowed), source)

    def test_the_last_stages_have_no_compiler_and_no_root(self):
        text = (DOCKER / "Dockerfile").read_text()
        stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
        by_name = {re.match(r"\S+ AS (\S+)", stage)[1]: stage for stage in stages}
        for name in ("coordinator", "worker", "cli", "runtime"):
            self.assertIn(by_name[name].split()[0], ("${BASE}", "runtime"))
            self.assertEqual(re.findall(r"^USER (.*)$", by_name[name], re.MULTILINE)[-1], "10001:10001", name)
            self.assertNotRegex(by_name[name], r"g\+\+ |ninja|-dev\b")

    @unittest.skipUnless(shutil.which("cmake"), "no cmake: what programs of images say of their build is not tried")
    def test_programs_of_an_image_say_its_revision(self):
        stages = (DOCKER / "Dockerfile").read_text().split("\nFROM ")
        compiling = [stage for stage in stages if "cmake -G Ninja" in stage]
        self.assertEqual(len(compiling), 3)
        for stage in compiling:
            self.assertRegex(stage, r'(?s)\nARG REVISION=\n.* -DNORMLAB_COMMIT="\$REVISION" ')
        with tempfile.TemporaryDirectory() as folder:  # No checkout.
            for commit, wanted in (("0e12345678", '"1.2.3+0e12345678"'), ("", '"1.2.3"')):
                subprocess.run(["cmake", f"-DSOURCE={folder}", "-DVERSION=1.2.3", f"-DCOMMIT={commit}", f"-DOUTPUT={folder}/id.cc",
                                "-P", ROOT / "cmake" / "write_build_id.cmake"], check=True)
                self.assertIn(wanted, pathlib.Path(folder, "id.cc").read_text())

    def test_the_charts_version_is_the_projects(self):
        version = re.search(r"project\(normlab VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text())[1]
        self.assertIn(f'appVersion: "{version}"', (CHART / "Chart.yaml").read_text())
        self.assertIn(f"ARG VERSION={version}", (DOCKER / "Dockerfile").read_text())

    @unittest.skipUnless(yaml, "needs python3-yaml")
    def test_every_value_has_a_schema_and_a_line_in_the_readme(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        readme = (CHART / "README.md").read_text()

        def walk(values, schema, path):
            if "$ref" in schema:
                schema = self.schema["$defs"][schema["$ref"].rpartition("/")[2]]
            if path and f"| `{path}` |" in readme:
                self.assertIsNotNone(schema)
                return
            self.assertTrue(isinstance(values, dict) and values, f"{path}: no comment '# -- ...' above it in values.yaml")
            self.assertIs(schema.get("additionalProperties"), False, path)
            self.assertEqual(set(values), set(schema["properties"]) - {"global"}, path)
            for key, value in values.items():
                walk(value, schema["properties"][key], f"{path}.{key}".lstrip("."))

        self.schema = schema
        walk(values, schema, "")


if __name__ == "__main__":
    unittest.main()
