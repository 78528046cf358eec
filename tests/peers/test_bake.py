"""deploy/docker's bake file without Docker: read by an HCL parser, and held against the Dockerfile that it builds."""

import pathlib
import re
import unittest

import hcl2

DOCKER = pathlib.Path(__file__).resolve().parents[2] / "deploy" / "docker"


def plain(value):
    """Without the quotes that some versions of the parser leave on texts."""
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items() if key != "__is_block__"}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.strip('"') if isinstance(value, str) else value


class BakeFileTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with open(DOCKER / "docker-bake.hcl", encoding="utf-8") as file:
            bake = plain(hcl2.load(file))
        cls.variables = {name: block["default"] for entry in bake["variable"] for name, block in entry.items()}
        cls.targets = {name: block for entry in bake["target"] for name, block in entry.items()}
        [cls.group] = [block["targets"] for entry in bake["group"] for block in entry.values()]
        cls.dockerfile = (DOCKER / "Dockerfile").read_text()

    def test_every_target_is_a_stage_and_is_built_by_default(self):
        stages = set(re.findall(r"^FROM \S+ AS (\S+)", self.dockerfile, re.MULTILINE))
        images = {name: block["target"] for name, block in self.targets.items() if name != "common"}
        self.assertEqual(set(images.values()), {"coordinator", "worker-cpu", "worker-cuda", "cli"})
        self.assertLessEqual(set(images.values()), stages)
        self.assertEqual(set(self.group), set(images))
        for name in images:
            self.assertEqual(self.targets[name]["inherits"], ["common"])
            self.assertIn(f'name("{name}")'.replace('"', ""), str(self.targets[name]["tags"]).replace('"', "").replace("\\", ""))

    def test_every_argument_exists_and_has_the_dockerfiles_default(self):
        declared = dict(re.findall(r"^ARG (\w+)=(\S*)", self.dockerfile, re.MULTILINE))
        arguments = set(self.targets["common"]["args"])
        self.assertEqual(arguments, set(declared))
        self.assertLessEqual(arguments, set(self.variables))
        # A builder with more cores than a laptop.
        for name in arguments - {"JOBS"}:
            self.assertEqual(self.variables[name], declared[name])


if __name__ == "__main__":
    unittest.main()
