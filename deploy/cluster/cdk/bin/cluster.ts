#!/usr/bin/env node
import { App, Validations } from 'aws-cdk-lib';
import { AwsSolutionsChecks } from 'cdk-nag';
import { ClusterStack } from '../lib/stack.js';

const app = new App();
const clusterName: string = app.node.getContext('cluster');
new ClusterStack(app, clusterName, { clusterName });
Validations.of(app).addPlugins(new AwsSolutionsChecks(app, { verbose: true }));
