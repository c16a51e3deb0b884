{{/*
The certificate comes from one of four: cert-manager; a Secret that is there; the values;
or the chart signs it.
*/}}
{{- define "tidegauge.tlsFrom" -}}
{{- $from := list -}}
{{- if .Values.certManager.enabled }}{{ $from = append $from "certManager.enabled" }}{{ end -}}
{{- if .Values.tls.existingSecret }}{{ $from = append $from "tls.existingSecret" }}{{ end -}}
{{- if .Values.tls.enable }}{{ $from = append $from "tls.enable" }}{{ end -}}
{{- if gt (len $from) 1 -}}
{{- fail (printf "%s: the certificate can come from one of them only" (join " and " $from)) -}}
{{- end -}}
{{- first $from | default "chart" -}}
{{- end -}}

{{/* The Secret with the adapter's certificate. */}}
{{- define "tidegauge.tlsSecret" -}}
{{- default (printf "%s-tls" (include "tidegauge.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{/* Its data, if it is there and Helm can ask the cluster, as JSON. */}}
{{- define "tidegauge.tlsFound" -}}
{{- $secret := lookup "v1" "Secret" (include "tidegauge.namespace" .) (include "tidegauge.tlsSecret" .) | default dict -}}
{{- $secret.data | default dict | toJson -}}
{{- end -}}

{{/*
The certificate that the chart signs, as JSON: ca.crt, tls.crt and tls.key as in the
Secret. What was signed before stays. It is made once, as several templates need the
same; the authority's key is kept nowhere.
*/}}
{{- define "tidegauge.selfSigned" -}}
{{- if not .Values.selfSigned -}}
{{- $data := include "tidegauge.tlsFound" . | fromJson -}}
{{- if not (and (get $data "ca.crt") (get $data "tls.crt") (get $data "tls.key")) -}}
{{- $days := int .Values.tls.selfSignedDays -}}
{{- $host := include "tidegauge.host" . -}}
{{- $ca := genCAWithKey (printf "%s-ca" (include "tidegauge.fullname" .)) $days (genPrivateKey "ecdsa") -}}
{{- $certificate := genSignedCertWithKey $host nil (list $host (trimSuffix ".svc" $host) (printf "%s.cluster.local" $host)) $days $ca (genPrivateKey "ecdsa") -}}
{{- $data = dict "ca.crt" (b64enc $ca.Cert) "tls.crt" (b64enc $certificate.Cert) "tls.key" (b64enc $certificate.Key) -}}
{{- end -}}
{{- $_ := set .Values "selfSigned" $data -}}
{{- end -}}
{{- .Values.selfSigned | toJson -}}
{{- end -}}

{{/* The authority in the values, if it is one: prometheus-adapter's chart has a comment in its place. */}}
{{- define "tidegauge.givenCA" -}}
{{- if contains "BEGIN CERTIFICATE" .Values.tls.ca }}{{ b64enc .Values.tls.ca }}{{ end -}}
{{- end -}}

{{/* What the API server knows the adapter's certificate by; nothing if cert-manager puts it in. */}}
{{- define "tidegauge.caBundle" -}}
{{- $from := include "tidegauge.tlsFrom" . -}}
{{- if eq $from "certManager.enabled" -}}
{{- else if include "tidegauge.givenCA" . -}}
{{- include "tidegauge.givenCA" . -}}
{{- else if eq $from "chart" -}}
{{- get (include "tidegauge.selfSigned" . | fromJson) "ca.crt" -}}
{{- else if eq $from "tls.existingSecret" -}}
{{- $found := get (include "tidegauge.tlsFound" . | fromJson) "ca.crt" -}}
{{- required (printf "tls.ca: give the authority of the certificate as PEM, as Helm finds no ca.crt in the Secret %s/%s" (include "tidegauge.namespace" .) .Values.tls.existingSecret) $found -}}
{{- else -}}
{{- fail "tls.ca: give the authority of tls.certificate as PEM" -}}
{{- end -}}
{{- end -}}

{{/* The Certificate of which cert-manager puts the authority into the APIServices. */}}
{{- define "tidegauge.injectFrom" -}}
{{- include "tidegauge.namespace" . }}/{{ include "tidegauge.fullname" . }}{{ ternary "-ca" "" (empty .Values.certManager.issuerRef) -}}
{{- end -}}
