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
{{- range $name, $value := omit (.Values.args | default dict) "secure-port" }}
- --{{ $name }}={{ include "tidegauge.flag" $value }}
{{- end }}
{{- with .Values.extraArguments }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The Secrets with the registry's credentials as objects, as JSON. */}}
{{- define "tidegauge.pullSecrets" -}}
{{- $secrets := list -}}
{{- range .Values.image.pullSecrets }}{{ $secrets = append $secrets (dict "name" .) }}{{ end -}}
{{- concat $secrets (.Values.imagePullSecrets | default list) | toJson -}}
{{- end -}}

{{- define "tidegauge.podSecurityContext" -}}
{{- $context := deepCopy (.Values.podSecurityContext | default dict) -}}
{{- if not (kindIs "invalid" .Values.runAsUser) -}}
{{- $_ := set $context "runAsUser" (int64 .Values.runAsUser) -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "tidegauge.securityContext" -}}
{{- $user := ternary "" "runAsUser" (kindIs "invalid" .Values.runAsUser) -}}
{{- omit (.Values.securityContext | default dict) $user | toYaml -}}
{{- end -}}

{{/* How long a pod may take to stop. If no longer than the delay, it would be killed while it serves. */}}
{{- define "tidegauge.gracePeriod" -}}
{{- $delay := int .Values.shutdownDelaySeconds -}}
{{- $period := .Values.terminationGracePeriodSeconds | default (add $delay 30) | int -}}
{{- if le $period $delay -}}
{{- fail (printf "terminationGracePeriodSeconds: %d has to be above shutdownDelaySeconds, which is %d" $period $delay) -}}
{{- end -}}
{{- $period -}}
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

{{/* How the Deployment goes from one version to the next. */}}
{{- define "tidegauge.strategy" -}}
{{- $strategy := .Values.strategy -}}
{{- if eq $strategy.type "Recreate" -}}
{{- $strategy = dict "type" "Recreate" -}}
{{- else if and .Values.hostNetwork.enabled (eq (toJson $strategy.rollingUpdate) `{"maxSurge":1,"maxUnavailable":0}`) -}}
{{- $strategy = dict "type" $strategy.type "rollingUpdate" (dict "maxSurge" 0 "maxUnavailable" 1) -}}
{{- end -}}
{{- toYaml $strategy -}}
{{- end -}}
