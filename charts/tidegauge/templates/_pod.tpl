{{- define "tidegauge.args" -}}
- --secure-port={{ include "tidegauge.port" . }}
- --tls-cert-file=/var/run/serving-cert/tls.crt
- --tls-private-key-file=/var/run/serving-cert/tls.key
- --config=/etc/adapter/config.yaml
{{- with include "tidegauge.prometheusURL" . }}
- --prometheus-url={{ . }}
{{- end }}
- --metrics-relist-interval={{ .Values.metricsRelistInterval }}
- --shutdown-delay-duration={{ int .Values.shutdownDelaySeconds }}s
- --v={{ int .Values.logLevel }}
{{- range $name, $value := omit .Values.args "secure-port" }}
- --{{ $name }}={{ include "tidegauge.flag" $value }}
{{- end }}
{{- with .Values.extraArguments }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Names of Secrets as objects, as JSON. */}}
{{- define "tidegauge.pullSecrets" -}}
{{- $secrets := list -}}
{{- range .Values.image.pullSecrets }}{{ $secrets = append $secrets (dict "name" .) }}{{ end -}}
{{- toJson $secrets -}}
{{- end -}}

{{- define "tidegauge.podSecurityContext" -}}
{{- $context := deepCopy .Values.podSecurityContext -}}
{{- if not (kindIs "invalid" .Values.runAsUser) -}}
{{- $_ := set $context "runAsUser" (int64 .Values.runAsUser) -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{/* Two adapters on one node are better than one that waits for a node. */}}
{{- define "tidegauge.affinity" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
  - weight: 100
    podAffinityTerm:
      topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "tidegauge.selectorLabels" . | nindent 10 }}
{{- end -}}

{{- define "tidegauge.spread" -}}
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- topologyKey: {{ . }}
  maxSkew: 1
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "tidegauge.selectorLabels" $ | nindent 6 }}
{{- end }}
{{- end -}}
