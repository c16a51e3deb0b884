#!/usr/bin/env node
// Validates CloudFormation templates, offline, with the validator that aws-cdk-lib brings:
//
//   npm run validate -- ../cloudformation/*.yaml cdk.out/*.template.json
//
// It has the rules of cfn-lint and the schemas of all resources. Ends with 1 if there is a warning or
// worse.
import { createRequire } from 'node:module';

interface Finding {
  readonly severity: string;
  readonly ruleId: string;
  readonly message: string;
  readonly startLine?: number;
  readonly propertyPath?: string;
  readonly entity?: { readonly logicalId?: string };
}

interface Validator {
  readonly CelEngine: new () => {
    validateTemplate(template: object, config: { severityLevel: string }): { diagnostics: Finding[]; metadata: { resourcesScanned: number } };
    free(): void;
  };
  readonly TemplateFile: new (path: string) => object;
}

const validator: Validator = createRequire(require.resolve('aws-cdk-lib/package.json'))('@aws/cloudformation-validate');

const engine = new validator.CelEngine();
for (const file of process.argv.slice(2)) {
  const report = engine.validateTemplate(new validator.TemplateFile(file), { severityLevel: 'WARN' });
  for (const f of report.diagnostics) {
    console.log(`${file}:${f.startLine ?? 0}: ${f.severity} ${f.ruleId} ${f.entity?.logicalId ?? ''} ${f.propertyPath ?? ''}: ${f.message}`);
    process.exitCode = 1;
  }
  console.log(`${file}: ${report.metadata.resourcesScanned} resources, ${report.diagnostics.length} findings`);
}
engine.free();
