# docker buildx bake -f deploy/docker/docker-bake.hcl [coordinator worker-cpu worker-cuda cli]
# REGISTRY=registry.example.org/normlab TAG=0.1.0 REVISION=$(git rev-parse --short=10 HEAD) docker buildx bake \
#   -f deploy/docker/docker-bake.hcl --push
variable "REGISTRY" { default = "" }
variable "TAG" { default = "dev" }
variable "VERSION" { default = "0.1.0" }
variable "REVISION" { default = "" }
variable "BASE" { default = "docker.io/library/debian:bookworm-20250520-slim" }
variable "JOBS" { default = "4" }

function "name" {
  params = [image]
  result = ["${REGISTRY == "" ? "" : "${REGISTRY}/"}normlab-${image}:${TAG}"]
}

group "default" {
  targets = ["coordinator", "worker-cpu", "worker-cuda", "cli"]
}

target "common" {
  context    = "."
  dockerfile = "deploy/docker/Dockerfile"
  platforms  = ["linux/amd64"]
  args       = { BASE = BASE, VERSION = VERSION, REVISION = REVISION, JOBS = JOBS }
}

target "coordinator" {
  inherits = ["common"]
  target   = "coordinator"
  tags     = name("coordinator")
}

target "worker-cpu" {
  inherits = ["common"]
  target   = "worker-cpu"
  tags     = name("worker-cpu")
}

target "worker-cuda" {
  inherits = ["common"]
  target   = "worker-cuda"
  tags     = name("worker-cuda")
}

target "cli" {
  inherits = ["common"]
  target   = "cli"
  tags     = name("cli")
}
