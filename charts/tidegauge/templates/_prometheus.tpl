{{/* Whether somebody gives rules, other than by a ConfigMap of his own. */}}
{{- define "tidegauge.hasRules" -}}
{{- with .Values.rules -}}
{{- if or .default .custom .external .resource -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The address for --prometheus-url, or nothing. Values of prometheus-adapter's chart that
leave out the address mean the one that it has by default.
*/}}
{{- define "tidegauge.prometheusURL" -}}
{{- $url := .Values.prometheus.url -}}
{{- if kindIs "invalid" $url -}}
{{- $known := dig "prometheus" "servers" nil (.Values.config | default dict) -}}
{{- $url = "" -}}
{{- if and (not $known) (or (include "tidegauge.hasRules" .) .Values.rules.existing) -}}
{{- $url = "http://prometheus.default.svc" -}}
{{- end -}}
{{- end -}}
{{- with tpl $url . -}}
{{- if not (regexMatch "^https?://" .) -}}
{{- fail "prometheus.url: its template gives an address that does not begin with http:// or https://" -}}
{{- end -}}
{{- $port := "" -}}
{{- if and $.Values.prometheus.port (not (regexMatch "^[a-z]+://(\\[[^]]*\\]|[^/:]*)(:[0-9]+|/.+)" .)) -}}
{{- $port = printf ":%d" (int $.Values.prometheus.port) -}}
{{- end -}}
{{- $path := $.Values.prometheus.path | default "" -}}
{{- /* A slash at the end would part the address from its port, or be there twice. */ -}}
{{- $address := ternary (trimSuffix "/" .) . (or (ne $port "") (hasPrefix "/" $path)) -}}
{{- print $address $port $path -}}
{{- end -}}
{{- end -}}

{{/* Whether prometheus-adapter's stock rules are wanted. */}}
{{- define "tidegauge.stockRules" -}}
{{- $wanted := .Values.rules.default -}}
{{- if kindIs "invalid" $wanted -}}
{{- $wanted = ne (include "tidegauge.prometheusURL" .) "" -}}
{{- end -}}
{{- if $wanted -}}true{{- end -}}
{{- end -}}

{{/* The adapter's configuration file. It is never empty, which the adapter takes for a mistake. */}}
{{- define "tidegauge.configuration" -}}
{{- $rules := list -}}
{{- if include "tidegauge.stockRules" . -}}
{{- $rules = (.Files.Get "files/stock-rules.yaml" | fromYaml).rules -}}
{{- end -}}
{{- with .Values.config }}
{{- toYaml . }}
{{ end -}}
{{ dict "rules" (concat $rules (.Values.rules.custom | default list) | default list) | toYaml }}
{{- with .Values.rules.external }}
{{ dict "externalRules" . | toYaml }}
{{- end }}
{{- with .Values.rules.resource }}
{{ dict "resourceRules" . | toYaml }}
{{- end }}
{{- end -}}

{{/*
The ports of all Prometheus servers that the values name, as a list in JSON, and the one that
Prometheus' pods have: a NetworkPolicy sees that, whatever the Service before them has.
*/}}
{{- define "tidegauge.prometheusPorts" -}}
{{- $urls := list -}}
{{- with include "tidegauge.prometheusURL" . }}{{ $urls = append $urls . }}{{ end -}}
{{- range dig "prometheus" "servers" dict (.Values.config | default dict) }}{{ $urls = append $urls .url }}{{ end -}}
{{- $ports := list -}}
{{- range $urls -}}
{{- $url := urlParse . -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) -}}
{{- $ports = append $ports (default (ternary 80 443 (eq $url.scheme "http")) (atoi $port)) -}}
{{- end -}}
{{- if $ports }}{{ $ports = append $ports 9090 }}{{ end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}
