import { Validations } from 'aws-cdk-lib';
import { IConstruct } from 'constructs';

/** Says beside a construct why a rule of cdk-nag is not followed there. */
export function acknowledge(of: IConstruct, rule: string, reason: string): void {
  Validations.of(of).acknowledge({ id: rule, reason });
}
