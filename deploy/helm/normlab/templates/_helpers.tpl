{{- define "normlab.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}{{ end }}{{ end }}
{{- end }}

{{- define "normlab.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "normlab.labels" -}}
{{ include "normlab.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: normlab
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "normlab.serviceAccount" -}}
{{ .Values.serviceAccount.create | ternary (default (include "normlab.fullname" .) .Values.serviceAccount.name) (default "default" .Values.serviceAccount.name) }}
{{- end }}

{{- /* Whole image reference: (list root "worker-cpu" override) */ -}}
{{- define "normlab.image" -}}
{{- $root := index . 0 }}
{{- with index . 2 }}{{ . }}{{ else -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}normlab-{{ index . 1 }}:{{ default $root.Chart.AppVersion $root.Values.image.tag }}
{{- end }}
{{- end }}

{{- define "normlab.hasTls" -}}{{ if ne .Values.tls.source "none" }}yes{{ end }}{{- end }}
{{- define "normlab.host" -}}{{ include "normlab.fullname" . }}-coordinator.{{ .Release.Namespace }}.svc{{- end }}
{{- define "normlab.coordinatorSecret" -}}
{{- eq .Values.tls.source "secret" | ternary .Values.tls.coordinatorSecret (printf "%s-coordinator-tls" (include "normlab.fullname" .)) }}
{{- end }}
{{- define "normlab.workerSecret" -}}
{{- eq .Values.tls.source "secret" | ternary .Values.tls.workerSecret (printf "%s-worker-tls" (include "normlab.fullname" .)) }}
{{- end }}
{{- define "normlab.tokensSecret" -}}
{{- default (printf "%s-tokens" (include "normlab.fullname" .)) .Values.tokens.existingSecret }}
{{- end }}
{{- define "normlab.claim" -}}
{{- $root := index . 0 }}{{ $what := index . 1 }}
{{- default (printf "%s-%s" (include "normlab.fullname" $root) $what) (index $root.Values.storage $what).existingClaim }}
{{- end }}

{{- /* What every pod has: passes the policy "restricted". */ -}}
{{- define "normlab.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "normlab.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
{{- define "normlab.podCommon" -}}
serviceAccountName: {{ include "normlab.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext: {{ include "normlab.podSecurity" . | nindent 2 }}
{{- end }}

{{- /* The command line's environment, and what it mounts: (list root tokenKey) */ -}}
{{- define "normlab.clientEnv" -}}
- {name: NORMLAB_SERVER, value: "{{ include "normlab.host" . }}:7070"}
- {name: NORMLAB_TOKEN_FILE, value: /etc/normlab/token/token}
{{- if include "normlab.hasTls" . }}
- {name: NORMLAB_TLS_CA, value: /etc/normlab/tls/ca.crt}
{{- end }}
{{- end }}
{{- define "normlab.clientMounts" -}}
- {name: token, mountPath: /etc/normlab/token, readOnly: true}
{{- if include "normlab.hasTls" . }}
- {name: tls, mountPath: /etc/normlab/tls, readOnly: true}
{{- end }}
{{- end }}
{{- define "normlab.clientVolumes" -}}
{{- $root := index . 0 }}
- name: token
  secret:
    secretName: {{ include "normlab.tokensSecret" $root }}
    defaultMode: 0440
    items: [{key: {{ index . 1 | quote }}, path: token}]
{{- if include "normlab.hasTls" $root }}
- name: tls
  secret:
    secretName: {{ include "normlab.coordinatorSecret" $root }}
    defaultMode: 0440
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}

{{- /* The pool as it is: its own keys over poolDefaults. YAML. (list root pool) */ -}}
{{- define "normlab.pool" -}}
{{- $pool := mustMergeOverwrite (deepCopy (index . 0).Values.poolDefaults) (deepCopy (default dict (index . 1))) }}
{{- toYaml $pool }}
{{- end }}

{{- /* What the schema cannot say. */ -}}
{{- define "normlab.check" -}}
{{- if and (eq .Values.tls.source "none") (not .Values.tls.allowPlaintext) }}
{{- fail "tls.source is none: tokens would travel in plain text, for everybody on the network to read. Choose generated, certManager or secret; or say tls.allowPlaintext=true as well" }}
{{- end }}
{{- if and (eq .Values.tls.source "certManager") (not .Values.tls.certManager.issuerRef.name) }}
{{- fail "tls.source is certManager: say tls.certManager.issuerRef.name" }}
{{- end }}
{{- if eq .Values.tls.source "secret" }}
{{- if not .Values.tls.coordinatorSecret }}{{ fail "tls.source is secret: say tls.coordinatorSecret, a secret with tls.crt, tls.key and ca.crt" }}{{ end }}
{{- if and .Values.tls.mutual (not .Values.tls.workerSecret) }}{{ fail "tls.source is secret and tls.mutual is true: say tls.workerSecret, or tls.mutual=false" }}{{ end }}
{{- end }}
{{- $roles := dict }}
{{- range .Values.tokens.import }}{{ $_ := set $roles .role .key }}{{ end }}
{{- if not (hasKey $roles "worker") }}{{ fail "tokens.import has no token of the role worker: the workers could not come in" }}{{ end }}
{{- if .Values.toolbox.enabled }}
{{- include "normlab.checkTokenKey" (list . "toolbox.tokenKey" .Values.toolbox.tokenKey (list "operator" "submitter" "viewer")) }}
{{- end }}
{{- if .Values.coordinator.backup.enabled }}
{{- include "normlab.checkTokenKey" (list . "coordinator.backup.tokenKey" .Values.coordinator.backup.tokenKey (list "operator")) }}
{{- end }}
{{- $root := . }}
{{- range $name, $given := .Values.pools }}
{{- $pool := include "normlab.pool" (list $root $given) | fromYaml }}
{{- if and $pool.enabled (eq $pool.device "cuda") (lt (int $pool.gpu.count) 1) }}
{{- fail (printf "pools.%s.device is cuda and its gpu.count is 0: say gpu.count=1, or device=cpu" $name) }}
{{- end }}
{{- if gt (len (printf "%s-worker-%s" (include "normlab.fullname" $root) $name)) 52 }}
{{- fail (printf "pools.%s: the name %s-worker-%s has more than 52 characters, which Kubernetes refuses for StatefulSets: shorten it, or set fullnameOverride" $name (include "normlab.fullname" $root) $name) }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Key of the first token of a role; empty if there is none: (list root role) */ -}}
{{- define "normlab.tokenKeyOf" -}}
{{- $role := index . 1 }}
{{- range (index . 0).Values.tokens.import }}{{ if eq .role $role }}{{ .key }}{{ break }}{{ end }}{{ end }}
{{- end }}

{{- /* Fails unless the key of a client's token is one that the secret will have: (list root path key roles) */ -}}
{{- define "normlab.checkTokenKey" -}}
{{- $root := index . 0 }}{{ $path := index . 1 }}{{ $key := index . 2 }}{{ $roles := index . 3 }}
{{- $keys := list }}{{ $role := "" }}
{{- range $root.Values.tokens.import }}{{ $keys = append $keys .key }}{{ if eq .key $key }}{{ $role = .role }}{{ end }}{{ end }}
{{- if and (not $role) (not $root.Values.tokens.existingSecret) }}
{{- fail (printf "%s: tokens.import has no key %s, so the generated secret will have none; its keys: %s" $path $key (join ", " $keys)) }}
{{- end }}
{{- if and $role (not (has $role $roles)) }}
{{- fail (printf "%s: the token %s has the role %s; this one needs %s" $path $key $role (join " or " $roles)) }}
{{- end }}
{{- end }}
