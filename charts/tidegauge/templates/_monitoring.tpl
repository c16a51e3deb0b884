{{- define "tidegauge.scraper" -}}
{{- include "tidegauge.fullname" . }}-scraper
{{- end -}}

{{- define "tidegauge.scraped" -}}
{{- if or .Values.podMonitor.enabled .Values.serviceMonitor.enabled -}}true{{- end -}}
{{- end -}}

{{/* Where Prometheus scrapes: the endpoint of a PodMonitor or a ServiceMonitor. It takes a dict: root; monitor, its values. */}}
{{- define "tidegauge.endpoint" -}}
- port: https
  scheme: https
  path: /metrics
  interval: {{ .monitor.interval }}
  authorization:
    type: Bearer
    credentials:
      name: {{ include "tidegauge.scraper" .root }}
      key: token
  tlsConfig:
    {{- default (include "tidegauge.scrapeTLS" .root | fromYaml) .monitor.tlsConfig | toYaml | nindent 4 }}
  {{- with .monitor.relabelings }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .monitor.metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "tidegauge.scrapeTLS" -}}
serverName: {{ include "tidegauge.host" . }}
ca:
  secret:
    name: {{ include "tidegauge.tlsSecret" . }}
    key: ca.crt
{{- end -}}
