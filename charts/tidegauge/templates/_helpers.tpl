{{/* Names. */}}

{{- define "tidegauge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "tidegauge.fullname" -}}
{{- $name := include "tidegauge.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "tidegauge.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{/* The name by which the API server calls the adapter, which its certificate has to carry. */}}
{{- define "tidegauge.host" -}}
{{- include "tidegauge.fullname" . }}.{{ include "tidegauge.namespace" . }}.svc
{{- end -}}

{{- define "tidegauge.serviceAccount" -}}
{{- $default := ternary (include "tidegauge.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $default .Values.serviceAccount.name -}}
{{- end -}}

{{/* Labels and annotations. */}}

{{- define "tidegauge.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tidegauge.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tidegauge.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "tidegauge.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.customLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels and annotations of pods. Without the selector's labels a pod is nobody's. */}}
{{- define "tidegauge.podLabels" -}}
{{- $selector := include "tidegauge.selectorLabels" . | fromYaml -}}
{{- $labels := .Values.podLabels | default dict -}}
{{- range $name := keys $labels | sortAlpha -}}
{{- if hasKey $selector $name -}}
{{- fail (printf "podLabels: %s is a label of the selector, by which the Deployment and the Service find their pods: leave it out" $name) -}}
{{- end -}}
{{- end -}}
{{- merge dict $labels $selector (.Values.customLabels | default dict) | toYaml -}}
{{- end -}}

{{- define "tidegauge.podAnnotations" -}}
{{- with merge dict (.Values.podAnnotations | default dict) (.Values.customAnnotations | default dict) -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

{{/*
The metadata of an object. It takes a dict: root; name; namespace, unless the object has
none; labels and annotations, if it has some of its own.
*/}}
{{- define "tidegauge.metadata" -}}
name: {{ .name }}
{{- with .namespace }}
namespace: {{ . }}
{{- end }}
labels:
  {{- merge dict (.labels | default dict) (include "tidegauge.labels" .root | fromYaml) | toYaml | nindent 2 }}
{{- with merge dict (.annotations | default dict) (.root.Values.customAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The metadata of an object that is named as the release, in its namespace. */}}
{{- define "tidegauge.ownMetadata" -}}
{{- include "tidegauge.metadata" (dict "root" . "name" (include "tidegauge.fullname" .) "namespace" (include "tidegauge.namespace" .)) -}}
{{- end -}}

{{/* The same of an object that is in no namespace. */}}
{{- define "tidegauge.clusterMetadata" -}}
{{- include "tidegauge.metadata" (dict "root" . "name" (include "tidegauge.fullname" .)) -}}
{{- end -}}

{{/* The adapter's ServiceAccount, as the subject of a binding. */}}
{{- define "tidegauge.subject" -}}
- kind: ServiceAccount
  name: {{ include "tidegauge.serviceAccount" . }}
  namespace: {{ include "tidegauge.namespace" . }}
{{- end -}}

{{/*
The objects of a file, with the chart's labels. It takes a dict: root; file; annotations,
if the objects are to have some.
*/}}
{{- define "tidegauge.objects" -}}
{{- $root := .root -}}
{{- $annotations := .annotations | default dict -}}
{{- range regexSplit "(?m)^---$" (.root.Files.Get .file) -1 }}
{{- $object := fromYaml . }}
{{- with $object.metadata }}
{{- $own := mergeOverwrite dict (.annotations | default dict) $annotations }}
{{- $metadata := include "tidegauge.metadata" (dict "root" $root "name" .name "annotations" $own) | fromYaml }}
---
{{ mergeOverwrite $object (dict "metadata" $metadata) | toYaml }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The image. Those of the adapters that this one takes over from are not it. */}}

{{- define "tidegauge.foreignImage" -}}
{{- if regexMatch "(^|/)(k8s-)?prometheus-adapter(-amd64)?$|(^|/)k8s-cloudwatch-adapter$" .Values.image.repository -}}true{{- end -}}
{{- end -}}

{{- define "tidegauge.image" -}}
{{- $image := .Values.image -}}
{{- if include "tidegauge.foreignImage" . -}}
{{- $image = dict "repository" "ghcr.io/tidegauge/tidegauge" -}}
{{- end -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/*
The port that the adapter listens on. A flag that sets another one elsewhere would leave the
container's port behind, and with it the Service and the NetworkPolicy.
*/}}
{{- define "tidegauge.port" -}}
{{- $args := .Values.args | default dict -}}
{{- $port := get $args "secure-port" | default .Values.listenPort | int -}}
{{- if hasKey $args "secure_port" -}}
{{- fail "args.secure_port: the Service does not lead to a port that is given so: use listenPort" -}}
{{- end -}}
{{- range .Values.extraArguments -}}
{{- if and (regexMatch "^--?secure[-_]port(=|$)" .) (ne (regexFind "[^=]*$" .) (toString $port)) -}}
{{- fail (printf "extraArguments: the Service does not lead to a port that is given so, %s: use listenPort" .) -}}
{{- end -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{/* A value of a flag: a whole number stays one. */}}
{{- define "tidegauge.flag" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/*
Fails if an object that is to be there already is the one that the chart makes: Helm would
delete it as one that the release has no more, and pods that start later would wait for it.
*/}}
{{- define "tidegauge.refuseOwn" -}}
{{- $release := .root.Release -}}
{{- $found := lookup "v1" .kind (include "tidegauge.namespace" .root) .name | default dict -}}
{{- $annotations := dig "metadata" "annotations" dict $found | default dict -}}
{{- $own := and (eq (get $annotations "meta.helm.sh/release-name") $release.Name) (eq (get $annotations "meta.helm.sh/release-namespace") $release.Namespace) -}}
{{- if and $own (ne (get $annotations "helm.sh/resource-policy") "keep") -}}
{{- fail (printf "%s: the %s %s/%s is this release's own, and Helm would delete it now. Name a copy of it, or keep it by `kubectl annotate %s --namespace %s %s helm.sh/resource-policy=keep` first" .value .kind (include "tidegauge.namespace" .root) .name (lower .kind) (include "tidegauge.namespace" .root) .name) -}}
{{- end -}}
{{- end -}}
